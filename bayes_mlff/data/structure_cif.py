"""Crystallographic information files: fully occupied sites of one species; other sites are refused by name."""

import re
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase.data import atomic_numbers
from ase.io.cif import CIFBlock, parse_cif

from bayes_mlff.core.errors import DataError, shown
from bayes_mlff.data.extxyz import ISOTOPES
from bayes_mlff.data.structure_formats import Given, set_masses
from bayes_mlff.data.structure_frames import Raw, place

_SITE: Final = "_atom_site_"
_HYDROGEN: Final = {"1": "H", "2": "D", "3": "T"}
_SAME: Final = re.compile(r"scaled_positions (\d+) and (\d+) are equivalent")


def read_cif(path: Path, index: int, given: Given) -> Raw:
    """The structure of one block of a CIF.

    Raises:
      DataError: if a site is partially occupied, has several species or alternatives, magnetic moments or hydrogen
        atoms without coordinates, or if the element of a label is unclear.
    """
    blocks = [block for block in parse_cif(str(path)) if _has_sites(block)]
    if not blocks:
        raise DataError("structure: no block with symbols and coordinates of atoms")
    number = place(index, len(blocks))
    tags: dict[str, Any] = dict(blocks[number])
    _check_sites(tags)
    symbols = _symbols(tags)
    tags[f"{_SITE}type_symbol"] = ["H" if symbol in ISOTOPES else symbol for symbol in symbols]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        atoms = CIFBlock(blocks[number].name, tags).get_atoms(fractional_occupancies=False)
    _check_shared([str(w.message) for w in caught], _labels(tags), symbols)
    heavy = np.array([ISOTOPES.get(symbol, np.nan) for symbol in symbols])
    if not np.isnan(heavy).all():
        kinds = atoms.arrays.get("spacegroup_kinds", np.arange(len(atoms)))
        own = heavy[kinds]
        set_masses(atoms, np.where(np.isnan(own), atoms.get_masses(), own))
    kinds = atoms.arrays.pop("spacegroup_kinds", np.arange(len(atoms)))
    atoms.arrays["label"] = np.array(_labels(tags))[kinds]
    atoms.info.clear()
    said = dict.fromkeys(" ".join(str(w.message).split()) for w in caught if not _SAME.search(str(w.message)))
    return Raw(atoms, number, len(blocks), tuple(said))


def _has_sites(block: CIFBlock) -> bool:
    coordinates = (f"{_SITE}fract_x", f"{_SITE}cartn_x")
    names = (f"{_SITE}type_symbol", f"{_SITE}label")
    return any(name in block for name in coordinates) and any(name in block for name in names)


def _labels(tags: dict[str, Any]) -> list[str]:
    return [str(x) for x in tags.get(f"{_SITE}label", tags.get(f"{_SITE}type_symbol", []))]


def _column(tags: dict[str, Any], name: str, default: Any) -> list[Any]:
    """Values of the sites; the default for sites without a value."""
    given = tags.get(f"{_SITE}{name}", [default] * len(_labels(tags)))
    return [default if value in (".", "?", None) else value for value in given]


def _check_sites(tags: dict[str, Any]) -> None:
    labels = _labels(tags)
    occupied = zip(labels, _column(tags, "occupancy", 1.0), strict=True)
    partly = [f"{label} {value}" for label, value in occupied if abs(_number(value) - 1.0) > 1e-3]
    if partly:
        raise DataError(
            f"structure: sites are occupied in part: {', '.join(partly[:20])}; allowed: full occupancy only"
        )
    for name, none, what in (
        ("disorder_group", (0, "0"), "is one of alternatives (disorder group"),
        ("attached_hydrogens", (0, "0"), "has hydrogen atoms without a place (attached hydrogens"),
        ("calc_flag", ("d", "calc", "c", 0), "is no atom (calc flag"),
    ):
        for label, value in zip(labels, _column(tags, name, none[0]), strict=True):
            if value not in none:
                raise DataError(f"structure: site {label} {what} {value}); allowed: atoms with one position each")
    moments = sorted(name for name in tags if name.startswith(("_atom_site_moment", "_atom_site_moment.")))
    if moments:
        raise DataError(f"structure: magnetic moments of a CIF ({moments[0]}) are not read; allowed: initial_magmoms")


def _number(value: Any) -> float:
    try:
        return float(str(value).split("(")[0])
    except ValueError:
        return float("nan") if value else 1.0


def _symbols(tags: dict[str, Any]) -> list[str]:
    """Chemical symbol of each site, D and T among them."""
    stated = tags.get(f"{_SITE}type_symbol")
    return [_symbol(str(name), sure=stated is not None) for name in (stated or _labels(tags))]


def _symbol(name: str, *, sure: bool) -> str:
    isotope = re.match(r"(\d+)([A-Z][a-z]?)", name) if sure else None
    if isotope and isotope[2].capitalize() in atomic_numbers:
        if isotope[2] == "H" and isotope[1] in _HYDROGEN:
            return _HYDROGEN[isotope[1]]
        raise DataError(
            f"structure: type symbol {shown(name)} names an isotope; allowed: 1H, 2H and 3H, and other masses by "
            "dynamics.masses"
        )
    letters = "".join(re.findall(r"[A-Za-z]+", name)[:1])
    known = {**atomic_numbers, **ISOTOPES}
    if letters.capitalize() in known and (sure or len(letters) == 1 or letters == letters.capitalize()):
        return letters.capitalize()
    short = letters[:2].capitalize()
    if short not in known or short == letters[:2]:
        symbol = short if short in known else letters[:1].upper()
        if symbol in known:
            return symbol
    raise DataError(f"structure: site {shown(name)} has no clear element; allowed: a type symbol such as Ca or C")


def _check_shared(said: list[str], labels: list[str], symbols: list[str]) -> None:
    """Refuse sites of different species at the same position, as reported by ASE's warnings."""
    for match in filter(None, map(_SAME.search, said)):
        a, b = int(match[1]), int(match[2])
        if symbols[a] != symbols[b]:
            raise DataError(
                f"structure: sites {labels[a]} and {labels[b]} are at the same position; allowed: one species each"
            )
