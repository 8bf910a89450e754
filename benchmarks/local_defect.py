"""A local defect in 160 atoms: which trigger finds it, that on the total energy or that on forces?

    python -m benchmarks.local_defect OUT_DIR [--defect antisite | oxygen]

LaMnO3, 2 x 2 x 2 cells of the shipped structure. The reference is SevenNet-0, the learner `mace-perovskite-small` with
four chains. First an ordinary run without defect, at 300 K, in which both triggers become quiet: the energy's has the
paper's 6 kcal/mol for 40 atoms, scaled to 160, that of forces 15 kcal/mol/Å on any atom. Then the defect is planted,
and the same state goes on for 100 fs twice: with the energy's trigger alone, and with both. Every 10 fs the reference
says what the ensemble's errors are; these calls teach nothing. Everything is written to OUT_DIR, where an interrupted
first run is continued.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.geometry import get_distances

from bayes_mlff import EnsembleCalculator
from bayes_mlff.api.observing import Silent
from bayes_mlff.core import settings
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.structure import Structure, from_ase, to_ase
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.models import registry
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf import crowding, guards, problem, systems
from bayes_mlff.otf.loop import Session
from bayes_mlff.otf.problem import Problem
from bayes_mlff.otf.state import RunState
from bayes_mlff.runs import start
from bayes_mlff.runs.directory import RunDirectory
from benchmarks import one_model

ELEMENTS = (8, 25, 57)
NEAR = 3.0
"""Å. Atoms this far from a defect are near to it."""
QUIET_PS, AFTER_PS, TIMESTEP_FS = 0.106, 0.1, 2.0
MOST_LABELS = 2
"""Of a run with a defect, which ends there, since each costs more than all of its dynamics."""

CONFIG: dict[str, Any] = {
    "structure": "supercell.extxyz",
    "model": "mace-perovskite-small",
    "threshold": "24 kcal/mol",
    "triggers": [{"kind": "force", "threshold": "15 kcal/mol/Å"}],
    "min_steps_between_labels": 5,
    "calibration": {"a": 1.5, "b": 10.0},
    "sampler": {"chains": 4, "steps": 30, "cold_steps": 12, "ramp_steps": 5, "batch_size": 2},
    "dynamics": {
        "ensemble": "nvt",
        "thermostat": "bussi",
        "thermostat_time_fs": 50.0,
        "temperature_k": 300.0,
        "timestep_fs": TIMESTEP_FS,
        "duration_ps": QUIET_PS,
        "chunk_steps": 5,
        "trajectory_every": 5,
    },
    "audits": {"interval_ps": 0.014},  # often, since the calibration is to be that of a long run
    "engine": {"name": "ase", "calculator": "benchmarks.local_defect:reference"},
}


def reference() -> EnsembleCalculator:
    """SevenNet-0 as an ASE calculator."""
    return one_model.calculator(registry.restrict(registry.load("sevennet-0"), ELEMENTS))


class Said(Silent):
    """Prints labels."""

    def label(self, **what: Any) -> None:
        error = what["error_ev"]
        shown = "" if error is None else f", error of the energy {error * KCAL_MOL_PER_EV:+.2f} kcal/mol"
        print(f"  step {what['step']}: label, {what['reason']}{shown}", flush=True)


def session(made: Problem, path: Path) -> Session:
    """A session on a run directory, which is made if it is missing, and stays open."""
    run, engine = RunDirectory(path), make_engine(made.config.engine, path)
    if not run.config.exists():
        begun = start.Start(
            InitialStructure(made.structure), made.potential, engine.settings_hash, engine.description, path.parent
        )
        run.create(settings.dump(made.config), start.contents(begun))
    run.open()
    return Session(made, engine, run, Said())


def with_settings(structure: Structure, **change: Any) -> Problem:
    potential = registry.for_atoms(registry.load(CONFIG["model"]), structure.numbers)
    return problem.prepare(configuration.parse(CONFIG | change), structure, potential)


def distances(positions: np.ndarray, structure: Structure, atoms: list[int]) -> np.ndarray:
    """Distance, Å, of every atom [n] from the nearest of some."""
    return get_distances(positions[atoms], positions, cell=structure.cell, pbc=True)[1].min(axis=0)


def planted(kind: str, positions: np.ndarray, structure: Structure) -> tuple[np.ndarray, list[int]]:
    """Positions with a defect, and its atoms.

    An antisite pair is a La and its nearest Mn that have changed places, as after a collision cascade; the oxygen was
    knocked 1.1 Å off its site, across the axis of its bonds.
    """
    after, numbers = positions.copy(), structure.numbers
    if kind == "antisite":
        la = int(np.flatnonzero(numbers == 57)[5])
        apart = distances(positions, structure, [la])
        mn = int(min(np.flatnonzero(numbers == 25), key=lambda i: apart[i]))
        after[[la, mn]] = after[[mn, la]]
        return after, [la, mn]
    oxygen = int(np.flatnonzero(numbers == 8)[20])
    vectors, lengths = get_distances(positions[[oxygen]], positions, cell=structure.cell, pbc=True)
    mn = min(np.flatnonzero(numbers == 25), key=lambda i: lengths[0][i])
    across = np.cross(vectors[0][mn], [0.3, 0.5, 0.81])
    after[oxygen] += 1.1 * across / np.linalg.norm(across)
    return after, [oxygen]


def with_defect(ran: Session, state: RunState, kind: str) -> tuple[RunState, list[int]]:
    """The state with a defect and the ensemble's forces on it; velocities stay."""
    made, device = ran.problem, state.device
    positions = np.asarray(device.md.position, np.float64)
    moved, atoms = planted(kind, positions, made.structure)
    md = device.md.set(position=jnp.asarray(moved, device.md.position.dtype))
    near = guards.neighbors_of(md, device.neighbors, state.host.spec)
    state = RunState(device._replace(md=md, neighbors=near), state.host)
    if bool(near.overflow):
        state = crowding.with_room(made, state, md)
        near = guards.neighbors_of(md, state.device.neighbors, state.host.spec)
    said = problem.ensemble(made)(device.params, near.graph)
    md = md.set(force=said.forces_mean[0])
    return RunState(state.device._replace(md=md, neighbors=near), state.host), atoms


def errors(
    ran: Session, state: RunState, teacher: EnsembleCalculator, atoms: list[int], evaluate: Any
) -> dict[str, float]:
    """Errors of the ensemble at the present geometry, kcal/mol and kcal/mol/Å, and σ with its limits."""
    made, host = ran.problem, state.host
    positions = made.positions(np.asarray(state.device.md.position, np.float64), made.structure.cell, host.origin)
    frame: Atoms = to_ase(made.structure)
    frame.positions = positions
    frame.calc = teacher
    said = evaluate(state.device.params, guards.neighbors_of(state.device.md, state.device.neighbors, host.spec).graph)
    scale = made.scale(host.offset_ev)
    energy = scale.network_to_total(float(said.energy_mean[0])) - scale.reference_to_total(frame.get_potential_energy())
    norms = np.linalg.norm(np.asarray(said.forces_mean[0], np.float64) - frame.get_forces(), axis=1)
    near = distances(positions, made.structure, atoms) < NEAR
    sigma = np.linalg.norm(np.asarray(said.forces_sigma[0], np.float64), axis=1)
    found = {
        "fs": host.step * TIMESTEP_FS - 1000.0 * QUIET_PS,
        "energy": energy,
        "energy_sigma": float(said.energy_sigma[0]),
        "energy_limit": float(np.max(ran.triggers(host)[0].limit)),
        "force_near_rms": float(np.sqrt(np.mean(np.square(norms[near])))),
        "force_near_max": float(norms[near].max()),
        "force_far_max": float(norms[~near].max()),
        "force_sigma_near_max": float(sigma[near].max()),
        "force_sigma_far_max": float(sigma[~near].max()),
    }
    return {name: value if name == "fs" else value * KCAL_MOL_PER_EV for name, value in found.items()}


def quiet(structure: Structure, path: Path) -> int:
    """The run without defect; returns its labels."""
    ran = session(with_settings(structure), path)
    state = ran.finish(ran.resume())
    ran.run.close()
    return int(state.device.training_set.count)


def disturbed(structure: Structure, before: Path, path: Path, kind: str, *, forces: bool) -> dict[str, Any]:
    """The run that goes on with a defect."""
    shutil.copytree(before, path, ignore=shutil.ignore_patterns("*.lock"))
    dynamics = CONFIG["dynamics"] | {"duration_ps": QUIET_PS + AFTER_PS}
    change = {"dynamics": dynamics, "min_steps_between_labels": 0, "audits": {"interval_ps": 0.0}}
    silent = {} if forces else {"triggers": [{"kind": "force", "threshold": "1e6 kcal/mol/Å"}]}  # of the same columns
    made = with_settings(structure, **change, **silent)
    teacher, evaluate = reference(), problem.ensemble(made)
    ran = session(made, path)
    state = ran.resume()
    learnt = int(state.device.training_set.count)
    clean = errors(ran, state, teacher, planted(kind, np.asarray(state.device.md.position), structure)[1], evaluate)
    state, atoms = with_defect(ran, state, kind)
    rows, labels = [errors(ran, state, teacher, atoms, evaluate)], []
    while state.host.step < made.config.n_steps and len(labels) < MOST_LABELS:
        state = ran.advance(state)
        if int(state.device.training_set.count) > learnt + len(labels):
            labels.append(state.host.step * TIMESTEP_FS - 1000.0 * QUIET_PS)
        rows.append(errors(ran, state, teacher, atoms, evaluate))
        print(" ", {name: round(value, 2) for name, value in rows[-1].items()}, flush=True)
    ran.run.close()
    return {"labels_fs": labels, "before": clean, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--defect", choices=("antisite", "oxygen"), default="antisite")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    structure = from_ase(to_ase(systems.structure("lamno3")) * (2, 2, 2))
    before = given.output / "quiet"
    found: dict[str, Any] = {"defect": given.defect, "atoms": len(structure.numbers)}
    found["labels_before"] = quiet(structure, before)
    print(f"without defect: {found['labels_before']} labels, {time.process_time() - began:.0f} s", flush=True)
    for name, forces in (("energy", False), ("energy and forces", True)):
        path = given.output / f"{given.defect}-{name.replace(' ', '-')}"
        shutil.rmtree(path, ignore_errors=True)
        print(f"{given.defect}, {name}", flush=True)
        found[name] = disturbed(structure, before, path, given.defect, forces=forces)
    found["seconds"] = round(time.process_time() - began)
    (given.output / f"{given.defect}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
