"""Slabs with adsorbed atoms and their adsorption energies (Xu and Kitchin 2014), divided by metal.

The file is `structures.json` with `energies.json` of fairchem's documentation (MIT) as extended XYZ: 16 metal atoms,
one to four adsorbed atoms, `metal`, and `adsorption_energy` in eV per adsorbed atom.
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

import ase
import ase.io
import numpy as np

from bayes_mlff.core.errors import DataError, RunDirectoryError

ADSORBATES: Final = ("H", "C", "N", "O", "F", "S", "Cl", "Br")
METALS: Final = ("Ag", "Au", "Cu", "Ir", "Pd", "Pt", "Rh")
TARGETS: Final = ("Ag", "Ir")
"""Metals that no pretrained model has seen."""

SEEN: Final = tuple(metal for metal in METALS if metal not in TARGETS)
"""Metals of the pretraining."""

LABELS: Final[dict[str, Any]] = {"xyz_energy_key": "adsorption_energy", "energy_per": list(ADSORBATES)}
"""Keys of `data` in the configuration of a fine-tuning."""

HELD_OUT: Final = 40
"""Slabs of the other metals on which pretraining is judged."""

TEST: Final = 60
VALIDATION: Final = 10


class Split(NamedTuple):
    """Slabs of one metal, in the order in which they are written."""

    pool: list[ase.Atoms]  # to learn from
    validation: list[ase.Atoms]
    test: list[ase.Atoms]


def read(path: Path) -> list[ase.Atoms]:
    """All slabs.

    Raises:
      DataError: if it is another file.
    """
    rows = ase.io.read(path, ":", format="extxyz")
    assert isinstance(rows, list)
    unknown = {str(atoms.info.get("metal")) for atoms in rows} - set(METALS)
    if unknown:
        raise DataError(f"{path}: holds slabs of {', '.join(sorted(unknown))}; allowed: {', '.join(METALS)}")
    return rows


def others(slabs: list[ase.Atoms]) -> tuple[list[ase.Atoms], list[ase.Atoms]]:
    """Slabs of the metals that are no targets: those to pretrain on, and `HELD_OUT` to judge that."""
    own = [atoms for atoms in slabs if atoms.info["metal"] not in TARGETS]
    order = np.random.default_rng(0).permutation(len(own))
    return [own[i] for i in order[HELD_OUT:]], [own[i] for i in order[:HELD_OUT]]


def of_metal(slabs: list[ase.Atoms], metal: str, seed: int) -> Split:
    """Slabs of a target. Test and validation sets are those of any seed, the pool is in the random order of a seed."""
    own = [atoms for atoms in slabs if atoms.info["metal"] == metal]
    order = np.random.default_rng(1).permutation(len(own))
    pool = np.random.default_rng(seed).permutation(order[TEST + VALIDATION :])
    parts = (pool, order[TEST : TEST + VALIDATION], order[:TEST])
    return Split(*([own[i] for i in part] for part in parts))


def write(slabs: list[ase.Atoms], path: Path) -> None:
    """Write a set unless it is there.

    Raises:
      RunDirectoryError: if another one is there.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}")
        ase.io.write(beside, slabs, format="extxyz")
        beside.rename(path)
        return
    energies = [[atoms.info["adsorption_energy"] for atoms in rows] for rows in (read(path), slabs)]
    if energies[0] != energies[1]:
        raise RunDirectoryError(f"{path}: other slabs than asked for; remove it or choose another folder")
