"""What the sampler makes of the labels of a run: fit the first ones from the start, predict the others.

    python benchmarks/refit_labels.py RUN_DIR [--labels 33] [--updates 2] [--set sampler.step_size=1e-2 ...]
    python benchmarks/refit_labels.py RUN_DIR --one-by-one [--labels 33] ...

Pays for nothing and writes nothing; prints errors before and after each update. With --one-by-one each label is
predicted before it is learnt, as a run does.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.command_line import override
from bayes_mlff.core.units import GPA, KCAL_MOL_PER_EV
from bayes_mlff.data.graph import Graph, pad_slots
from bayes_mlff.data.labels import Label
from bayes_mlff.ensemble.metrics import rmse
from bayes_mlff.models import registry
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf.problem import (
    Problem,
    begun_chains,
    chain_update,
    ensemble,
    first_parameters,
    learning_graph,
    prepare,
    samples_around,
)
from bayes_mlff.posterior import training_set as training
from bayes_mlff.report import run_data


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--labels", type=int, default=33, help="how many of the oldest are fitted")
    parser.add_argument("--updates", type=int, default=2, help="of sampler.steps each")
    parser.add_argument("--one-by-one", action="store_true", help="predict each label, then learn it")
    parser.add_argument("--set", action="append", help="override a key of the configuration; repeatable")
    args = parser.parse_args()
    data = run_data.read(args.run)
    if not 1 <= args.labels < len(data.records):
        raise SystemExit(f"--labels: got {args.labels}; allowed: 1 to {len(data.records) - 1}, all but one at most")
    raw = data.config.model_dump(mode="json")
    override(raw, args.set)
    config, structure = configuration.parse(raw), data.records[0].structure
    potential = registry.for_atoms(registry.load(config.model, head=config.head), structure.numbers)
    problem = prepare(config, structure, potential)
    found = [learning_graph(problem, record.structure) for record in data.records]
    slots = max(graph.neighbors.shape[1] for graph in found)
    graphs = [pad_slots(graph, slots) for graph in found]
    scale = problem.scale(data.records[0].energy_offset)
    energies = [scale.reference_to_network(r.label.energy) for r in data.records]
    chains, say = Chains(problem, graphs[0], args.labels), Report(problem, data, graphs, energies, args.labels)
    if args.one_by_one:
        for i in range(args.labels):
            say.one(i, chains.samples)
            chains.add(graphs[i], energies[i], data.records[i].label)
            chains.update()
        say.all_together()
        return
    for i in range(args.labels):
        chains.add(graphs[i], energies[i], data.records[i].label)
    say("start", chains.samples)
    for i in range(args.updates):
        chains.update()
        say(f"update {i + 1}", chains.samples)


class Chains:
    """The chains of a run and its labels."""

    def __init__(self, problem: Problem, graph: Graph, room: int):
        key_params, key_chains = jax.random.split(jax.random.key(problem.config.seed))
        self.samples = first_parameters(problem, key_params)
        self._state, self._update = begun_chains(problem, self.samples, key_chains), chain_update(problem)
        self._draw = samples_around(problem)
        self.labels = training.allocate(graph, room)

    def add(self, graph: Graph, energy: float, label: Label) -> None:
        """Add a label, with its energy on the network's scale in eV."""
        self.labels = training.append(self.labels, graph, energy, label.forces, label.stress)

    def update(self) -> None:
        """Continue the chains."""
        self.samples, self._state, info = self._update(self.samples, self._state, self.labels)
        if not bool(jnp.all(info.finite)):
            raise SystemExit("a chain became non-finite; a smaller sampler.step_size usually helps")
        self.samples = self._draw(self.samples, self._state, self.labels)


class Report:
    """Errors of the ensemble mean on the fitted labels and on the others."""

    def __init__(
        self, problem: Problem, data: run_data.RunData, graphs: list[Graph], energies: list[float], fitted: int
    ):
        self._ensemble, self._records, self._graphs, self._fitted = ensemble(problem), data.records, graphs, fitted
        self._energies = np.array(energies)
        self._met: list[tuple[float, float]] = []

    def one(self, i: int, params: jax.Array) -> None:
        """Print the errors of one label; of energy with its σ before calibration, kcal/mol, and forces, kcal/mol/Å."""
        found, record = self._ensemble(params, self._graphs[i]), self._records[i]
        energy = (float(found.energy_mean[0]) - self._energies[i]) * KCAL_MOL_PER_EV
        forces = rmse(np.asarray(found.forces_mean[0]) - record.label.forces) * KCAL_MOL_PER_EV
        sigma = float(found.energy_sigma[0]) * KCAL_MOL_PER_EV
        print(f"step {record.step}: energy {energy:.2f} (σ {sigma:.2f}), forces {forces:.2f}", flush=True)
        self._met.append((energy, forces))

    def all_together(self) -> None:
        """Print root mean squares over all labels that were met but the first, and over the second half of them."""
        met = np.array(self._met[1:])
        for name, rows in (("all", met), ("second half", met[len(met) // 2 :])):
            print(f"{name}: energy {rmse(rows[:, 0]):.2f}, forces {rmse(rows[:, 1]):.2f}")

    def __call__(self, name: str, params: jax.Array) -> None:
        """Print two lines; energy kcal/mol, forces kcal/mol/Å, stress GPa."""
        found = [self._ensemble(params, graph) for graph in self._graphs]
        labels = [record.label for record in self._records]
        energy = (np.array([float(p.energy_mean[0]) for p in found]) - self._energies) * KCAL_MOL_PER_EV
        forces = np.array([p.forces_mean[0] - x.forces for p, x in zip(found, labels, strict=True)])
        sigma = np.array([p.forces_sigma[0] for p in found])
        stress = [
            rmse(np.asarray(p.stress_mean[0]) - x.stress) / GPA if p.stress_mean is not None else np.nan
            for p, x in zip(found, labels, strict=True)
        ]
        for part, rows in (("fitted", slice(0, self._fitted)), ("others", slice(self._fitted, None))):
            print(
                f"{name}, {part}: energy {rmse(energy[rows]):.2f} (scatter {np.std(energy[rows]):.2f}), "
                f"forces {rmse(forces[rows]) * KCAL_MOL_PER_EV:.2f} (σ {np.mean(sigma[rows]) * KCAL_MOL_PER_EV:.2f}), "
                f"stress {rmse(stress[rows]):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
