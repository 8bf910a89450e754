"""Labels that exist before a run: read, compared with its structure and its reference, duplicates left out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data import dataset, frame_checks, frame_states
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.label_notes import GIVEN
from bayes_mlff.data.label_settings import Wanted
from bayes_mlff.data.labelled_reading import LabelledSet, read_file
from bayes_mlff.data.labels import Label
from bayes_mlff.data.level import differences
from bayes_mlff.data.stated import CHARGES, State, multiplicities
from bayes_mlff.data.structure import ElectronicState, Structure
from bayes_mlff.data.structure_remarks import formula
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf.agreement import ENERGY_SIGMAS
from bayes_mlff.otf.problem import Problem
from bayes_mlff.otf.start_settings import LabelsSettings
from bayes_mlff.runs import start as starts
from bayes_mlff.runs.directory import CONFIG, DATASET, IN_FORCE, RunDirectory

KEY: Final = "start.labels"

UNKNOWN: Final = "unknown"
"""In the place of the hash of the reference, of labels of which it is not known what made them."""


class Labels(NamedTuple):
    """Labels from one place."""

    records: list[LabelRecord]
    remarks: list[str]


def is_run(path: Path) -> bool:
    """Whether a path is the directory of a run that keeps what it started from."""
    return (path / starts.FOLDER / starts.IDENTITY).is_file() and (path / CONFIG).is_file()


def read(settings: LabelsSettings, problem: Problem, engine_hash: str) -> Labels:
    """Read labels from where the configuration says.

    Args:
      settings: path, keys and units.
      problem: constants of the run.
      engine_hash: of the reference of the run.

    Raises:
      ConfigError: if there is no such file, or the labels are of another level of theory.
      DataError: naming the first frame that does not fit.
    """
    path = Path(settings.file)
    if is_run(path):
        return of_run(path, problem, engine_hash, KEY)
    if path.is_dir():
        raise ConfigError(KEY, str(path), "a file of labelled frames, or the directory of a run")
    if not path.is_file():
        raise ConfigError(KEY, str(path), "the path of an existing file, or of the directory of a run")
    if path.name == DATASET and is_run(path.parent):
        return of_run(path.parent, problem, engine_hash, KEY)
    return _of_file(path, settings, problem)


def of_run(run: Path, problem: Problem, engine_hash: str, key: str) -> Labels:
    """All labels of a run: those that it paid for, and those that it was started from.

    Args:
      run: directory.
      problem: constants of the run that is to start.
      engine_hash: of its reference.
      key: of the configuration, for messages.

    Raises:
      ConfigError: if the levels of theory differ in kind, or there are no labels.
      DataError: naming the first frame that does not fit.
      RunDirectoryError: if the run cannot be read.
    """
    start, directory = starts.read(run), RunDirectory(run)
    in_force = run / IN_FORCE
    before = configuration.load(in_force if in_force.is_file() else run / CONFIG)
    _refuse_other_level(before.engine, problem, key, run)
    bought = paid(run)
    given = dataset.read(run / starts.FOLDER / starts.LABELS) if start.labels is not None else []
    if any(directory.checkpoints.glob("*.ckpt")):  # that run has compared them with its reference
        given = [record._replace(engine_hash=start.engine_hash) for record in given]
    if not bought and not given:
        raise ConfigError(key, str(run), "a run with labels")
    alike = _same_state(start.initial.structure, problem.structure)
    records = []
    for index, record in enumerate([*bought, *given]):
        known = record.engine_hash if alike else f"{record.engine_hash}, {UNKNOWN} electrons"
        where = f"{key}: label {index} of {run}"
        _refuse_other_electrons(record.structure.electronic, problem.structure, where)
        records.append(_record(record.structure, record.label, known, problem, where))
    made = sum(record.engine_hash == engine_hash for record in records)
    why = "" if alike else ", whose structure states another charge, spin or other initial moments"
    remark = f"{len(records)} labels of {run}{why}; {made} of them by the reference of this run"
    return Labels(records, [remark])


def paid(run: Path) -> list[LabelRecord]:
    """The labels that a run, or a walker of a campaign, has paid for; an incomplete last one is left out."""
    path = run / DATASET
    stored = dataset.read(path, unfinished=True) if path.exists() else []
    return [record for record in stored if record.reason != GIVEN]


def _of_file(path: Path, settings: LabelsSettings, problem: Problem) -> Labels:
    wanted = Wanted(stress=problem.with_stress, section=KEY)
    found = read_file(path, settings, wanted, KEY)
    doubted, frames = settings.doubtful_units == "refuse", found.frames
    if frames.without_forces is not None:
        first = int(np.flatnonzero(frames.without_forces.any(axis=(1, 2)))[0])
        raise DataError(
            f"{KEY}: {path}: frame {first}: forces of held atoms are written as zeros; allowed: the forces that the "
            "method gives on all atoms"
        )
    _refuse_other_state(found, problem.structure, path)
    records = []
    for index in range(frames.size):
        label = Label(
            float(frames.energy[index]) if frames.energy is not None else np.nan,
            frames.forces[index, frames.node_mask[index]],
            None if frames.stress is None else frames.stress[index],
        )
        where = f"{KEY}: {path}: frame {index}"
        records.append(_record(frames.structure(index), label, UNKNOWN, problem, where))
    if doubted:
        frame_checks.bond_lengths(frames, found.units, KEY, KEY)
    frame_checks.plausible(frames, KEY, large_forces=not doubted, section=KEY)
    said = [remark.removeprefix(f"{KEY}: ") for remark in found.remarks]
    return Labels(records, [f"{len(records)} frames of {path}, of a reference that is not known", *said])


def _record(structure: Structure, label: Label, engine_hash: str, problem: Problem, where: str) -> LabelRecord:
    """One label of the atoms of the run.

    Raises:
      DataError: if it is of other atoms, or lacks the stress.
    """
    own = problem.structure
    if not np.array_equal(structure.numbers, own.numbers):
        said = "the same atoms in another order"
        if not np.array_equal(np.sort(structure.numbers), np.sort(own.numbers)):
            said = formula(structure.numbers)
        raise DataError(f"{where} is of {said}; allowed: those of the structure, {formula(own.numbers)}, in its order")
    if not np.array_equal(structure.pbc, own.pbc):
        raise DataError(f"{where} has pbc {structure.pbc.tolist()}; allowed: {own.pbc.tolist()}, as the structure")
    if problem.with_stress and label.stress is None:
        raise DataError(f"{where} has no stress; allowed: labels with stress, which this run learns")
    kept = label if problem.with_stress else label._replace(stress=None)
    return LabelRecord(structure, kept, 0, 0.0, GIVEN, 0.0, None, engine_hash, 0.0)


def _refuse_other_level(engine: configuration.EngineSettings, problem: Problem, key: str, run: Path) -> None:
    """Refuse labels of a run whose reference differs in functional, +U or dispersion."""
    theirs, ours = engine.level, problem.config.engine.level
    if theirs is None or ours is None:
        return
    found = differences(theirs, ours, {chemical_symbols[z] for z in problem.structure.numbers})
    if found:
        why = "; ".join(found)
        raise ConfigError(key, str(run), f"labels of {ours.text}, not of {theirs.text} as in that run ({why})")


def _same_state(left: Structure, right: Structure) -> bool:
    """Whether two structures state the same charge, spin and initial moments."""
    one, other = left.electronic, right.electronic
    if (one.charge or 0) != (other.charge or 0) or one.multiplicity != other.multiplicity:
        return False
    moments = [
        np.zeros(len(s.numbers)) if s.electronic.moments is None else s.electronic.moments for s in (left, right)
    ]
    return moments[0].shape == moments[1].shape and bool(np.allclose(*moments, rtol=0.0, atol=1e-6))


def _refuse_other_electrons(stated: ElectronicState, own: Structure, where: str) -> None:
    for name in ("charge", "multiplicity"):
        theirs, ours = getattr(stated, name), getattr(own.electronic, name)
        if theirs is not None and ours is not None and theirs != ours:
            raise DataError(f"{where} is of {name} {theirs}; allowed: {ours}, as the structure")


def _refuse_other_state(found: LabelledSet, own: Structure, path: Path) -> None:
    """Refuse frames that state another charge or spin than the structure of the run."""
    common = frame_states.common_state({KEY: found})
    charge, ours = common.get("charge"), own.electronic
    spins = [(name, value) for name, value in common.items() if name not in CHARGES]
    if charge is not None and ours.charge is not None and charge != ours.charge:
        raise DataError(
            f"{KEY}: the frames of {path} state charge {charge:g}; allowed: {ours.charge}, as the structure"
        )
    if not spins or ours.multiplicity is None:
        return
    state = State(charge, spins[0])
    if ours.multiplicity not in multiplicities(state, own.numbers, periodic=own.is_periodic):
        raise DataError(
            f"{KEY}: the frames of {path} state {spins[0][0]} {spins[0][1]:g}; allowed: multiplicity "
            f"{ours.multiplicity}, as the structure"
        )


def distinct(records: Sequence[LabelRecord], problem: Problem) -> Labels:
    """Every geometry once, the first of equal ones, numbered as steps.

    Raises:
      DataError: if two labels of one geometry have different energies.
    """
    geometries = np.stack([np.concatenate([r.structure.positions, r.structure.cell]).ravel() for r in records])
    dropped: set[int] = set()
    for later, before in sorted(frame_checks.repeated(geometries)):
        apart = abs(records[later].label.energy - records[before].label.energy)
        if apart > ENERGY_SIGMAS * problem.energy_sigma_ev:
            raise DataError(
                f"{KEY}: labels {before} and {later} are of the same geometry and {apart:.3g} eV apart; allowed: one "
                "energy of each geometry"
            )
        dropped.add(later)
    kept = [record for index, record in enumerate(records) if index not in dropped]
    numbered = [record._replace(step=index) for index, record in enumerate(kept)]
    said = [f"{len(dropped)} labels of geometries that are there already are left out"] if dropped else []
    return Labels(numbered, said)
