"""Protons in CaZrS3: training at two thresholds and with a trigger on forces, productions, labels of random frames.

    python -m benchmarks.cazrs3.run WORK_DIR STAGE [--set engine.python=PATH ...] [--out RESULTS_DIR]

STAGE is train-1.8, train-5.4, train-region, produce, supercell, label or collect, in this order; every stage continues
what was interrupted. `produce` moves five replicas with each ensemble and with the model before the run, `supercell`
162 atoms, `label` calculates random frames of the first replica of each, `collect` writes RESULTS_DIR/summary.json and
figures.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import ase.io
import numpy as np
import yaml

import bayes_mlff
from bayes_mlff.analysis.options import Options
from bayes_mlff.core.command_line import override
from bayes_mlff.core.durable import write_whole
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.structure import from_ase
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.ensemble.metrics import rmse
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.report import run_data
from bayes_mlff.runs import start
from benchmarks import one_model

REGION: Final = {
    "kind": "force",
    "name": "proton",
    "threshold": "10 kcal/mol/Å",
    "within": {"of": [20], "radius_angstrom": 3.0},
}
TRAININGS: Final[dict[str, dict[str, Any]]] = {
    "1.8": {"threshold": "1.8 kcal/mol"},
    "5.4": {"threshold": "5.4 kcal/mol"},
    "region": {"threshold": "5.4 kcal/mol", "triggers": [REGION]},
}
"""The published thresholds of 162 atoms, 5 and 15 kcal/mol, times the square root of 21 / 162."""

MODELS: Final = {"1.8": "ensemble", "5.4": "ensemble", "before": "pretrained"}
FRAMES: Final = 100
WINDOW_FS: Final = 15.0
BEFORE_HOP_FS: Final = 50.0
"""As published: windows of labels around hops, and the time before a hop in which the hosts come close."""


class Work(NamedTuple):
    """Where everything is, and what the user changes."""

    folder: Path
    changes: list[str]
    produced_ps: float
    frames: int

    def training(self, name: str) -> Path:
        """Run directory."""
        return self.folder / f"train-{name}"

    def production(self, name: str, *, large: bool = False) -> Path:
        """Directory of a production."""
        return self.folder / (f"supercell-{name}" if large else f"production-{name}")

    def labelled(self, name: str) -> Path:
        """Labelled random frames of a production."""
        return self.folder / f"frames-{name}.extxyz"


def main() -> None:
    """Do one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    stages = [f"train-{name}" for name in TRAININGS]
    parser.add_argument("stage", choices=[*stages, "produce", "supercell", "label", "collect"])
    parser.add_argument("--set", action="append", default=[], help="override a key of train.yaml; repeatable")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--ps", type=float, default=30.0, help="length of a replica; a third of it for the supercell")
    parser.add_argument("--frames", type=int, default=FRAMES)
    args = parser.parse_args()
    work = Work(args.work, args.set, args.ps, args.frames)
    work.folder.mkdir(parents=True, exist_ok=True)
    if args.stage in stages:
        name = args.stage.removeprefix("train-")
        bayes_mlff.run(_config(work, name), work.training(name), progress=True)
    elif args.stage == "produce":
        for name in MODELS:
            _produce(work, name, large=False)
    elif args.stage == "supercell":
        for name in MODELS:
            if MODELS[name] == "ensemble":
                _produce(work, name, large=True)
    elif args.stage == "label":
        for name in MODELS:
            _label(work, name)
    else:
        collect(work, args.out or Path("benchmarks/results/cazrs3"))


def _config(work: Work, name: str) -> RunConfig:
    raw = yaml.safe_load(Path(__file__).with_name("train.yaml").read_text()) | TRAININGS[name]
    override(raw, work.changes)
    return configuration.parse(raw)


def _produce(work: Work, name: str, *, large: bool) -> None:
    source = work.training("1.8" if name == "before" else name)
    bayes_mlff.produce(
        source,
        work.production(name, large=large),
        progress=True,
        structure="start",
        model=MODELS[name],
        replicas=1 if large else 5,
        supercell=[2, 2, 2] if large else [1, 1, 1],
        equilibration={"duration_ps": min(1.0, work.produced_ps)},
        dynamics={
            "ensemble": "nve",
            "duration_ps": work.produced_ps / 3.0 if large else work.produced_ps,
            "trajectory_every": 5,
        },
    )


def _label(work: Work, name: str) -> None:
    """Calculate random frames of the first replica; goes on behind those that are there."""
    moved = ase.io.read(work.production(name) / "replicas" / "1" / "trajectory.extxyz", ":")
    assert isinstance(moved, list)
    count = min(work.frames, len(moved))
    chosen = np.sort(np.random.default_rng(0).choice(len(moved), count, replace=False))
    path = work.labelled(name)
    done = len(ase.io.read(path, ":")) if path.exists() else 0
    config = _config(work, "1.8")
    with make_engine(config.engine) as engine:
        for place in chosen[done:]:
            frame = moved[int(place)]
            structure = from_ase(frame)
            engine.check(structure)
            label = engine.label(structure).label
            kept = ase.Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
            kept.info |= {"REF_energy": label.energy, "time_fs": float(frame.info["time_fs"])}
            kept.arrays["REF_forces"] = np.asarray(label.forces)
            ase.io.write(path, kept, format="extxyz", append=True)
            print(f"{name}: frame {place} labelled", flush=True)


def _calculator(work: Work, name: str) -> EnsembleCalculator:
    if MODELS[name] == "ensemble":
        return EnsembleCalculator(work.training(name))
    return one_model.calculator(start.read(work.training("1.8")).potential)


def _errors(work: Work, name: str) -> dict[str, float]:
    """Errors on the labelled frames; of the model before the run with its error at the first structure taken off."""
    calculator, threshold = _calculator(work, name), float(name) if MODELS[name] == "ensemble" else None
    shift = 0.0
    if MODELS[name] == "pretrained":
        first = run_data.read(work.training("1.8")).records[0]
        shift = _predicted(calculator, first.structure.numbers, first.structure)[0] - first.label.energy
    energies, forces, own = [], [], []
    for frame in ase.io.iread(work.labelled(name)):
        energy, force = _predicted(calculator, frame.numbers, frame)
        energies.append(energy - shift - frame.info["REF_energy"])
        forces.append(force - frame.arrays["REF_forces"])
        own.append((force - frame.arrays["REF_forces"])[frame.numbers == 1])
    found = {
        "random_frames": len(energies),
        "rmse_random_kcal_mol": KCAL_MOL_PER_EV * rmse(np.array(energies)),
        "scatter_random_kcal_mol": KCAL_MOL_PER_EV * float(np.std(energies)),
        "force_rmse_random_kcal_mol_angstrom": KCAL_MOL_PER_EV * rmse(np.array(forces)),
        "force_rmse_of_protons_kcal_mol_angstrom": KCAL_MOL_PER_EV * rmse(np.concatenate(own)),
    }
    if threshold is not None:
        found["random_above_threshold"] = int(np.sum(np.abs(energies) * KCAL_MOL_PER_EV > threshold))
    return found


def _predicted(calculator: EnsembleCalculator, numbers: np.ndarray, where: Any) -> tuple[float, np.ndarray]:
    atoms = ase.Atoms(numbers, positions=where.positions, cell=np.array(where.cell), pbc=where.pbc)
    atoms.calc = calculator
    return float(atoms.get_potential_energy()), atoms.get_forces()


def _analysed(path: Path, what: str, options: Options, out: Path, name: str) -> dict[str, Any]:
    """Results of one analysis, with its figure in the results directory."""
    (done,) = bayes_mlff.analyse([path], what=[what], output=path / "analysis", options=options)
    assert done.finding is not None
    write_whole(out / f"{what}-{name}.png", done.finding.png)
    return dict(done.finding.results)


def _trained(work: Work, name: str, out: Path) -> dict[str, Any]:
    """Labels, errors at labels, and the rate of labels around hops."""
    run = run_data.read(work.training(name))
    known = run_data.predicted(run.records)
    errors = KCAL_MOL_PER_EV * run_data.errors(known)
    asked = [record.reason for record in run.records]
    found: dict[str, Any] = {
        "simulated_ps": float(run.records[-1].time_fs) / 1e3,
        "labels": len(run.records),
        "audits": asked.count("audit"),
        "rmse_labels_kcal_mol": rmse(errors),
        "labels_above_threshold": int(np.sum(np.abs(errors) > KCAL_MOL_PER_EV * run.threshold_ev)),
    }
    options = Options(mobile="H", hosts=("S",), window_fs=WINDOW_FS)
    found["around_hops"] = _analysed(work.training(name), "labels", options, out, f"train-{name}")
    return found


def _moved(work: Work, name: str, out: Path) -> dict[str, Any]:
    """Hops, diffusion and the distance of sulphur atoms before hops, of one model."""
    path, options = work.production(name), Options(mobile="H", hosts=("S",), species=("H",))
    hops = _analysed(path, "hops", options, out, name)
    msd = _analysed(path, "msd", options, out, name)
    profile = hops["profile"]
    time, distance = np.asarray(profile["time_fs"]), np.asarray(profile["mean_host_distance_angstrom"])
    before = (time >= -BEFORE_HOP_FS) & (time <= 0.0)
    return {
        "hops": hops["count"],
        "straight_back": hops["straight_back"],
        "rate_per_ps": hops["rate_per_atom_and_ps"],
        "ss_before_hop_angstrom": {f"{t:g}": float(d) for t, d in zip(time[before], distance[before], strict=True)},
        "ss_at_hop_angstrom": float(distance[np.argmin(np.abs(time))]),
        "diffusion": msd["elements"]["H"],
        **_errors(work, name),
    }


def collect(work: Work, out: Path) -> None:
    """Write summary.json and the figures."""
    out.mkdir(parents=True, exist_ok=True)
    trained = {name: _trained(work, name, out) for name in _present(work.training, TRAININGS)}
    moved = {name: _moved(work, name, out) for name in _present(work.labelled, MODELS)}
    around = {name: each["around_hops"] for name, each in trained.items()}
    summary = {
        "trainings": trained,
        "models": moved,
        "labels_by_threshold": {name: each["labels"] for name, each in trained.items()},
        "hops": {name: each["hops"] for name, each in moved.items()},
        "diffusion_cm2_s": {name: each["diffusion"].get("diffusion_cm2_s") for name, each in moved.items()},
        "ss_at_hop_angstrom": {name: each["ss_at_hop_angstrom"] for name, each in moved.items()},
        "labels_around_hops_ratio": {name: each["ratio"] for name, each in around.items()},
        "p_value": {name: each["p_value"] for name, each in around.items()},
    }
    write_whole(out / "summary.json", (json.dumps(summary, indent=1, default=_plain) + "\n").encode())


def _present(where: Any, names: Any) -> Iterator[str]:
    return (name for name in names if where(name).exists())


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


if __name__ == "__main__":
    main()
