"""Time of a step of each model, for the column `cost` of `bayes-mlff models`.

    python scripts/measure_cost.py [NAME | NAME=FILE | NAME=@MODEL.json ...]

A step is one evaluation of energy and forces, float32, of the 20-atom LaMnO3 cell at room temperature with one set of
weights, restricted to its three elements; a model without them gets three of its own in their places, since the time
depends on shapes alone. For the same reason random weights do: @MODEL.json is a configuration of a network, as files of
this package have it. Without names all models that are here are measured. Printed are the shortest of the repetitions,
and that in units of the cheapest model of the catalogue.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np

from bayes_mlff.data import neighbors
from bayes_mlff.models import architectures, catalogue, presence, registry
from bayes_mlff.models.energetics import predictor
from bayes_mlff.models.potential import Potential
from bayes_mlff.otf import systems

REPETITIONS = 40


def milliseconds(potential: Potential) -> tuple[float, int]:
    """Shortest time of a step, ms, since other work on the machine only lengthens it; and the number of edges."""
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
    times = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        jax.block_until_ready(step(small.params, graph))
        times.append(time.perf_counter() - began)
    return 1e3 * min(times), int(np.sum(np.asarray(graph.edge_mask)))


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
    given = parser.parse_args().models
    here = [name for name, row in catalogue.ENTRIES.items() if presence.of(row).path is not None]
    unit = milliseconds(registry.load(catalogue.CHEAPEST))[0]
    print(f"{catalogue.CHEAPEST}: {unit:.2f} ms")
    for argument in given or here:
        name, potential = loaded(argument)
        taken, edges = milliseconds(potential)
        print(f"{name}: {taken:.2f} ms, {taken / unit:.3g} times, {edges} neighbours", flush=True)


if __name__ == "__main__":
    main()
