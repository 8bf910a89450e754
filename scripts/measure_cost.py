"""Time of a step of each model, for the column `cost` of `bayes-mlff models`.

    taskset -c 1 python scripts/measure_cost.py [--rounds N] [NAME | NAME=FILE | NAME=@MODEL.json ...]

A step is one evaluation of energy and forces, float32, of the 20-atom LaMnO3 cell at room temperature with one set of
weights, restricted to its three elements; a model without them gets three of its own in their places, since the time
depends on shapes alone. For the same reason random weights do: @MODEL.json is a configuration of a network, as files of
this package have it. Without names all models that are here are measured.

Printed are the shortest time of all rounds, in each of which every model makes some steps, and that in units of the
cheapest model of the catalogue: other work on the machine only lengthens times, and seldom in every round. The time is
that of the processor, which does not count what others do on the same core.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from bayes_mlff.data import neighbors
from bayes_mlff.models import architectures, catalogue, presence, registry
from bayes_mlff.models.energetics import predictor
from bayes_mlff.models.potential import Potential
from bayes_mlff.otf import systems

STEPS = 3
"""Steps of a model in a round, of which the first may find caches of another one."""


def compiled(potential: Potential) -> tuple[Callable[[], object], int]:
    """A function that makes a step, compiled; and the number of edges."""
    structure = systems.structure("lamno3")
    wanted = np.unique(structure.numbers)
    known = potential.config.elements
    taken = wanted if set(wanted) <= set(known) else np.array(known[: len(wanted)])
    structure = structure._replace(numbers=taken[np.searchsorted(wanted, structure.numbers)])
    small = registry.for_atoms(potential, structure.numbers)
    _, state = neighbors.allocate(structure, small.config.elements, small.config.r_max, skin=0.0)
    graph = jax.tree.map(lambda x: x[None], state.graph)
    step = jax.jit(predictor(small.node_fn, with_stress=False))
    jax.block_until_ready(step(small.params, graph))
    return lambda: jax.block_until_ready(step(small.params, graph)), int(np.sum(np.asarray(graph.edge_mask)))


def milliseconds(step: Callable[[], object]) -> float:
    """Shortest processor time of some steps, ms."""
    times = []
    for _ in range(STEPS):
        began = time.process_time()
        step()
        times.append(1e3 * (time.process_time() - began))
    return min(times)


def loaded(argument: str) -> tuple[str, Potential]:
    """Name and model of an argument of the command line."""
    name, _, file = argument.partition("=")
    if file.startswith("@"):
        config = architectures.read_config(Path(file[1:]).read_text(encoding="utf-8"))
        return name, registry.initialize(config, 0)
    return name, registry.load(file or name)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    here = [name for name, row in catalogue.ENTRIES.items() if presence.of(row).path is not None]
    steps, edges = {}, {}
    for argument in (catalogue.CHEAPEST, *(given.models or here)):
        name, potential = loaded(argument)
        steps[name], edges[name] = compiled(potential)
    shortest = dict.fromkeys(steps, float("inf"))
    for _ in range(given.rounds):
        for name, step in steps.items():
            shortest[name] = min(shortest[name], milliseconds(step))
    for name, taken in shortest.items():
        print(f"{name}: {taken:.2f} ms, {taken / shortest[catalogue.CHEAPEST]:.3g} times, {edges[name]} neighbours")


if __name__ == "__main__":
    main()
