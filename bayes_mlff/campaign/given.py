"""What a campaign is given beside structures and model: labels and samples of an earlier campaign or run."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.campaign.layout import MARK, WALKERS
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.label_notes import GIVEN
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble import atomic_energies, files, saved
from bayes_mlff.ensemble.atomic_energies import OwnLevels
from bayes_mlff.ensemble.saved import Ensemble
from bayes_mlff.models.potential import Potential
from bayes_mlff.otf import given_labels
from bayes_mlff.runs import start as starts
from bayes_mlff.runs.same_start import model_differences

KEY: Final = "start"


class Given(NamedTuple):
    """Labels that an earlier campaign has learnt, of any composition, and its samples."""

    labels: tuple[LabelRecord, ...] = ()
    ensemble: Ensemble | None = None

    @property
    def largest(self) -> int:
        """Number of atoms of the largest labelled structure."""
        return max((len(r.structure.numbers) for r in self.labels), default=0)

    def compositions(self, elements: tuple[int, ...]) -> np.ndarray:
        """Distinct compositions [k, e] of the labels."""
        counts = [atomic_energies.composition(np.asarray(r.structure.numbers), elements) for r in self.labels]
        return np.unique(np.array(counts), axis=0) if counts else np.zeros((0, len(elements)), int)

    def offset_ev(self, numbers: np.ndarray) -> float:
        """Energy of the samples minus reference, eV, in the mean, of atoms whose composition they know.

        Args:
          numbers: atomic numbers [n].
        """
        assert self.ensemble is not None
        architecture = self.ensemble.architecture
        counts = atomic_energies.composition(numbers, architecture.elements)
        isolated = float(counts @ np.array(architecture.energy_shifts))
        return isolated - float(np.mean(self.ensemble.atomic_reference_energy(numbers)))

    def knows(self, numbers: np.ndarray, *, by_elements: bool) -> bool:
        """Whether the labels have the zero of the energies of atoms with these atomic numbers [n].

        Args:
          numbers: atomic numbers.
          by_elements: whether a linear combination of their compositions is enough, in the place of a whole multiple.
        """
        if self.ensemble is None:
            return False
        elements = self.ensemble.architecture.elements
        counts, labelled = atomic_energies.composition(numbers, elements), self.compositions(elements)
        if by_elements:
            return bool(atomic_energies.determined(counts, atomic_energies.independent(labelled)))
        return bool(OwnLevels(labelled, np.zeros((1, len(labelled)))).known(counts))

    def of(self, structure: Structure) -> tuple[LabelRecord, ...]:
        """Labels of the atoms of a structure in their order, with the same charge and spin."""
        return tuple(
            record
            for record in self.labels
            if np.array_equal(record.structure.numbers, structure.numbers)
            and record.structure.electronic.charge == structure.electronic.charge
            and record.structure.electronic.multiplicity == structure.electronic.multiplicity
        )

    def files(self) -> dict[str, bytes]:
        """Contents of the copies in the directory of the campaign by name; nothing if nothing was given."""
        if self.ensemble is None:
            return {}
        labels = dataset.text(self.labels).encode()
        return {starts.LABELS: labels, starts.ENSEMBLE: saved.serialised(self.ensemble)}


NOTHING: Final = Given()


class Read(NamedTuple):
    """What is given, and the model from which it was learnt."""

    given: Given
    potential: Potential


def read(path: Path, engine_hash: str) -> Read:
    """Read the directory of a campaign or of a run.

    Raises:
      ConfigError: if there is none, it has no samples, or its reference is another one.
      RunDirectoryError: if it is damaged.
    """
    if (path / MARK).is_file():
        folders = sorted(each for each in (path / WALKERS).iterdir() if each.is_dir())
    elif given_labels.is_run(path):
        folders = [path]
    else:
        raise ConfigError(KEY, str(path), "the directory of a campaign or of a run")
    if not (path / files.NAME).is_file():
        raise ConfigError(KEY, str(path), f"a campaign or a run that has ended or was interrupted, with {files.NAME}")
    begun = [starts.read(folder) for folder in folders]
    for folder, start in zip(folders, begun, strict=True):
        if start.engine_hash != engine_hash:
            allowed = f"labels of the reference of this campaign; those of {folder.name} are of {start.engine}"
            raise ConfigError(KEY, str(path), allowed)
    ensemble = saved.load(path / files.NAME)
    records = [*_kept(path / starts.FOLDER / starts.LABELS), *(r for f in folders for r in given_labels.paid(f))]
    numbered = tuple(record._replace(step=index, reason=GIVEN) for index, record in enumerate(_once(records)))
    if not numbered:
        raise ConfigError(KEY, str(path), "a campaign or a run with labels")
    given = Given(tuple(record._replace(engine_hash=engine_hash) for record in numbered), ensemble)
    return Read(given, begun[0].potential)


def _kept(path: Path) -> list[LabelRecord]:
    return dataset.read(path) if path.is_file() else []


def _once(records: list[LabelRecord]) -> list[LabelRecord]:
    """Every geometry of one charge and spin once, the first of equal ones."""
    known: dict[tuple, LabelRecord] = {}
    for record in records:
        s = record.structure
        arrays = (np.ascontiguousarray(x).tobytes() for x in (s.numbers, s.positions, s.cell, s.pbc))
        known.setdefault((*arrays, s.electronic.charge, s.electronic.multiplicity), record)
    return list(known.values())


def check(found: Read, structures: Mapping[str, Structure], levels: str) -> None:
    """Compare what is given with the walkers of a campaign, by name with their structures, and with its `levels`.

    Raises:
      ConfigError: naming what does not fit.
    """
    refuse_other_levels(found, levels)
    refuse_unknown(found, {name: np.asarray(structure.numbers) for name, structure in structures.items()})
    refuse_other_electrons(found, structures)


def refuse_unknown(found: Read, numbers: Mapping[str, np.ndarray]) -> None:
    """Refuse walkers, by name with their atomic numbers, of elements that the samples do not know.

    Raises:
      ConfigError: naming the walker and the element.
    """
    elements = found.potential.config.elements
    for name, each in numbers.items():
        missing = sorted({int(z) for z in each} - set(elements))
        if missing:
            symbols = ", ".join(chemical_symbols[z] for z in elements)
            allowed = f"elements that the samples of {KEY} know: {symbols}"
            raise ConfigError(f"walker {name}: structure", chemical_symbols[missing[0]], allowed)


def refuse_other_electrons(found: Read, structures: Mapping[str, Structure]) -> None:
    """Refuse walkers, by name with their structures, whose atoms have labels of another charge or spin.

    Raises:
      ConfigError: naming the walker.
    """
    for name, structure in structures.items():
        here, counts = structure.electronic, np.sort(structure.numbers)
        for record in found.given.labels:
            there = record.structure.electronic
            if not np.array_equal(np.sort(record.structure.numbers), counts):
                continue
            for key in ("charge", "multiplicity"):
                ours, theirs = getattr(here, key), getattr(there, key)
                if ours is not None and theirs is not None and ours != theirs:
                    allowed = f"{theirs}, of which the labels of {KEY} with the same atoms are"
                    raise ConfigError(f"walker {name}: structure.{key}", ours, allowed)


def refuse_other_levels(found: Read, levels: str) -> None:
    """Refuse zeros of the energies from elements if those that are given do not follow from elements.

    Raises:
      ConfigError: saying what to write.
    """
    if levels == "element" and found.given.ensemble is not None and found.given.ensemble.own is not None:
        raise ConfigError("levels", levels, f"structure, as the campaign of {KEY} has it")


def refuse_other_model(found: Read, potential: Potential, model: str) -> None:
    """Refuse a model, of this name, that is not that from which the samples began.

    Raises:
      ConfigError: saying how it differs.
    """
    differing = model_differences(potential, found.potential)
    if differing:
        raise ConfigError("run.model", model, f"the model from which {KEY} began: {'; '.join(differing)}")


def stored(folder: Path) -> Given:
    """What the campaign in a folder was given, from the copies there.

    Raises:
      RunDirectoryError: if one is missing, or is not as it was.
    """
    taken: dict[str, str] = json.loads((folder / MARK).read_bytes()).get("taken", {})
    if not taken:
        return NOTHING
    kept = folder / starts.FOLDER
    for name, digest in taken.items():
        starts.verified(kept / name, digest)
    return Given(tuple(dataset.read(kept / starts.LABELS)), saved.load(kept / starts.ENSEMBLE))


def digests(folder: Path, given: Given) -> dict[str, str]:
    """SHA-256 by name of the copies that are in the directory of a campaign; none if nothing was given."""
    names = () if given.ensemble is None else (starts.LABELS, starts.ENSEMBLE)
    return {name: hashlib.sha256((folder / starts.FOLDER / name).read_bytes()).hexdigest() for name in names}
