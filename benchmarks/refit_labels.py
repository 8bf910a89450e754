"""What the sampler makes of the labels of a run: fit the first ones from the start, predict the others.

    python benchmarks/refit_labels.py RUN_DIR [--labels 33] [--updates 2] [--set sampler.step_size=1e-2 ...]

Pays for nothing and writes nothing; prints errors before and after each update.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.command_line import override
from bayes_mlff.core.units import GPA, KCAL_MOL_PER_EV
from bayes_mlff.data.graph import Graph, pad_slots
from bayes_mlff.ensemble.metrics import rmse
from bayes_mlff.models import registry
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf.problem import Problem, chain_update, ensemble, first_parameters, learning_graph, prepare
from bayes_mlff.posterior import training_set as training
from bayes_mlff.report import run_data


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--labels", type=int, default=33, help="how many of the oldest are fitted")
    parser.add_argument("--updates", type=int, default=2, help="of sampler.steps each")
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
    labels = training.allocate(graphs[0], args.labels)
    for i, record in enumerate(data.records[: args.labels]):
        labels = training.append(labels, graphs[i], energies[i], record.label.forces, record.label.stress)

    key_params, key_chains = jax.random.split(jax.random.key(config.seed))
    params = first_parameters(problem, key_params)
    state, update = problem.chains.init(params, key_chains), chain_update(problem)
    say = Report(problem, data, graphs, energies, args.labels)
    say("start", params)
    for i in range(args.updates):
        params, state, info = update(params, state, labels)
        if not bool(jnp.all(info.finite)):
            raise SystemExit(f"update {i + 1}: a chain became non-finite; a smaller sampler.step_size usually helps")
        say(f"update {i + 1}", params)


class Report:
    """Errors of the ensemble mean on the fitted labels and on the others."""

    def __init__(
        self, problem: Problem, data: run_data.RunData, graphs: list[Graph], energies: list[float], fitted: int
    ):
        self._ensemble, self._records, self._graphs, self._fitted = ensemble(problem), data.records, graphs, fitted
        self._energies = np.array(energies)

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
