"""Learn labels one after the other as a run does, and compare σ with the errors at other labelled frames.

    python -m benchmarks.sigma.run CONFIG.yaml LABELS.extxyz OUT.json --frames SAME.extxyz [HOTTER.extxyz ...]
        [--counts 5 12 20] [--updates 1 2 3 ...] [--set sampler.steps=1000 ...]

Every label but the first is predicted before it is learnt, and its error updates the law of errors. After each of the
counts all frames are predicted. `common` is the law with one scale for spread and noise, which runs had before, `apart`
that with two; both have seen the same errors. Energies in kcal/mol.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
import yaml

from bayes_mlff.core.command_line import override
from bayes_mlff.core.durable import write_whole
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.graph import pad_slots
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure, from_ase
from bayes_mlff.ensemble import error_law
from bayes_mlff.ensemble.error_law import ErrorLaw
from bayes_mlff.ensemble.metrics import rmse
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.ensemble.ranking import ranking
from bayes_mlff.models import registry
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.criteria import prior_of
from bayes_mlff.otf.problem import Problem, ensemble, learning_graph, prepare, pretrained_energy
from benchmarks.refit_labels import Chains


class Labelled(NamedTuple):
    """A geometry with its label."""

    structure: Structure
    label: Label


def main() -> None:
    """Learn, predict, and write what σ knew."""
    parser = arguments(__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 12, 20])
    args = parser.parse_args()
    raw = yaml.safe_load(args.config.read_text())
    override(raw, args.set)
    config, labels = configuration.parse(raw), read(args.labels)
    groups = [read(path) for path in args.frames]
    study = Study(config, labels, [frame for group in groups for frame in group])
    found, ends = [], np.cumsum([len(group) for group in groups])
    for count in range(1, max(args.counts) + 1):
        study.learn(update=not args.updates or count in args.updates or count in args.counts)
        if count in args.counts:
            found.append(study.compared(ends))
            print(json.dumps(found[-1], indent=1), flush=True)
    about = {"config": raw, "labels": args.labels.name, "frames": [path.name for path in args.frames]}
    write_whole(args.out, (json.dumps({**about, "found": found}, indent=1) + "\n").encode())


def arguments(about: str | None) -> argparse.ArgumentParser:
    """Command line of a study that learns labels one after the other and predicts frames."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=Path, nargs="+", required=True)
    parser.add_argument(
        "--updates", type=int, nargs="*", help="labels after which the weights are learnt anew; default all"
    )
    parser.add_argument("--set", action="append", help="override a key of the configuration; repeatable")
    return parser


def read(path: Path) -> list[Labelled]:
    """Frames with REF_energy, eV, REF_forces, eV/Å, and possibly REF_stress, eV/Å³."""
    found = []
    for atoms in ase.io.read(path, ":"):
        stress = atoms.info.get("REF_stress")
        stress = None if stress is None else np.reshape(np.asarray(stress, np.float64), (3, 3))
        label = Label(float(atoms.info["REF_energy"]), np.asarray(atoms.arrays["REF_forces"]), stress)
        plain = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        found.append(Labelled(from_ase(plain), label))
    return found


class Study:
    """Chains that learn labels, and the laws of the errors that they made before."""

    def __init__(self, config: RunConfig, labels: list[Labelled], frames: list[Labelled]):
        structure = labels[0].structure
        potential = registry.for_atoms(registry.load(config.model, head=config.head), structure.numbers)
        self.problem: Problem = prepare(config, structure, potential)
        graphs = [learning_graph(self.problem, each.structure) for each in (*labels, *frames)]
        slots = max(graph.neighbors.shape[1] for graph in graphs)
        self._graphs, self._frames = [pad_slots(graph, slots) for graph in graphs], frames
        first = pretrained_energy(self.problem)(self._graphs[0])
        self._scale = self.problem.scale().matching(first, labels[0].label.energy)
        self._labels, self._known = labels, 0
        self.chains = Chains(self.problem, self._graphs[0], len(labels))
        self._predict = ensemble(self.problem)
        apart, self._decay = self.prior = prior_of(config, None, len(structure.numbers), self.problem.energy_sigma_ev)
        self._laws = {"common": error_law.init(apart.each.a, apart.each.b), "apart": apart}

    def learn(self, *, update: bool) -> None:
        """Meet the next label, and continue the chains with it."""
        graph, label = self.next_label
        if self._known:
            error, sigma = self._error(graph, label)
            self._laws = {n: error_law.update(law, error, sigma, decay=self._decay) for n, law in self._laws.items()}
        self.chains.add(graph, self._scale.reference_to_network(label.energy), label)
        self._known += 1
        if update:
            self.chains.update()

    @property
    def next_label(self) -> tuple[Any, Label]:
        """Graph and label that are learnt next."""
        return self._graphs[self._known], self._labels[self._known].label

    @property
    def frames(self) -> list[tuple[Any, Label]]:
        """Graphs and labels of the frames that are not learnt."""
        return [(graph, frame.label) for graph, frame in zip(self.frame_graphs, self._frames, strict=True)]

    @property
    def frame_graphs(self) -> list:
        """Graphs of the frames that are not learnt."""
        return self._graphs[len(self._labels) :]

    def errors(self) -> np.ndarray:
        """Errors [m] of their energies, eV."""
        return np.array([self._error(graph, label)[0] for graph, label in self.frames])

    def compared(self, ends: np.ndarray) -> dict[str, Any]:
        """What σ knows at the frames before each of the ends [g]: the first group, the first two, ..."""
        error, sigma = np.array([self._error(graph, label) for graph, label in self.frames]).T
        groups = [_numbers(self.problem, self._laws, error[:end], sigma[:end]) for end in ends]
        return {"labels": self._known, "groups": groups}

    def apart(self, graph: Any, label: Label) -> tuple[float, np.ndarray]:
        """Error of the mean energy, and how far each sample [k] is from it, eV."""
        error, _, found = self._found(graph, label)
        return error, np.asarray(found.chain_energy[:, 0] - found.energy_mean[0], np.float64)

    def _error(self, graph: Any, label: Label) -> tuple[float, float]:
        return self._found(graph, label)[:2]

    def _found(self, graph: Any, label: Label) -> tuple[float, float, Predictive]:
        found = self._predict(self.chains.samples, graph)
        predicted = self._scale.network_to_total(float(found.energy_mean[0]))
        error = predicted - self._scale.reference_to_total(label.energy)
        return error, float(found.energy_sigma[0]), found


def _numbers(problem: Problem, laws: dict[str, ErrorLaw], error: np.ndarray, sigma: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = {"frames": int(error.size), "rmse": rmse(error) * KCAL_MOL_PER_EV}
    for name, law in laws.items():
        factor, floor = error_law.parts(law)
        known = ranking(error, np.asarray(error_law.deviation(law, sigma)))
        inside = np.asarray(error_law.exceedance_probability(law, sigma, np.abs(error))) > 0.05
        trusted = sigma <= error_law.critical_sigma(law, problem.threshold_ev, confidence=problem.config.confidence)
        found[name] = {
            "factor": float(factor),
            "floor": float(floor) * KCAL_MOL_PER_EV,
            "within_95": float(np.mean(inside)),
            "trusted": float(np.mean(trusted)),
            "above_and_trusted": int(np.sum(trusted & (np.abs(error) > problem.threshold_ev))),
            **({} if known is None else known._asdict()),
        }
    return found


if __name__ == "__main__":
    main()
