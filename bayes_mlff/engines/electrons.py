"""Passes charge and spin of a structure to an ASE calculator; what the calculator would ignore is an error."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import JsonValue

from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data.structure import Plain, Structure
from bayes_mlff.engines import keywords, spelling
from bayes_mlff.engines.charge_spin import WHOLE, Electrons, settle, spread
from bayes_mlff.engines.engine import Settled
from bayes_mlff.engines.factories import is_description
from bayes_mlff.engines.keywords import Dialect


class Told(NamedTuple):
    """Arguments and atomic properties that are passed to a calculator."""

    arguments: dict[str, JsonValue]
    moments: tuple[float, ...] | None
    charges: tuple[float, ...] | None
    tags: tuple[int, ...] | None
    info: dict[str, Plain]
    carries: bool  # whether moments of an earlier label may replace the initial ones
    remarks: tuple[str, ...]  # assumptions, and statements that are not used, one line each
    settled: Settled  # charge and multiplicity that are passed

    @property
    def atoms(self) -> dict[str, Any]:
        """Properties that `calls.atoms_of` sets on the atoms."""
        return {"moments": self.moments, "charges": self.charges, "tags": self.tags, "info": self.info}


def tell(
    structure: Structure,
    calculator: str,
    arguments: Mapping[str, JsonValue],
    *,
    moments: Sequence[float] | None,
    reads: Sequence[str],
    names: Mapping[str, Sequence[str]],
) -> Told:
    """Determine the arguments of a calculator and the properties of its atoms, with charge and spin.

    Args:
      structure: the structure to label.
      calculator: import path of the ASE calculator.
      arguments: as configured; charge and spin are also passed to calculators described in them.
      moments: initial magnetic moments, μB.
      reads: where the calculator itself reads charge and spin, see `CalculatorSettings.reads`.
      names: declared keywords of each calculator, by import path.

    Raises:
      ConfigError: if the structure contradicts the arguments, or the calculator would ignore its charge or spin.
    """
    parts = list(_parts(calculator, arguments, "engine", names))
    for part in parts:
        spelling.check(part.path, part.place, part.arguments, part.dialect, names.get(part.path, ()))
    charge = _same([found for part in parts if (found := _argument(part, "charge")) is not None])
    spin = _same([found for part in parts if (found := _argument(part, "multiplicity")) is not None])
    electrons = settle(structure, moments, charge=charge, multiplicity=spin)
    for part in parts:
        _refuse_other_spin(part, electrons)
        _refuse_deaf(part, electrons, reads)
    told = _applied(calculator, dict(arguments), "engine", names, electrons, moments)
    return _with_atoms(told, parts, structure, electrons, moments, reads)


class _Part(NamedTuple):
    """One calculator that computes energies itself; sums of calculators have several parts."""

    path: str
    place: str
    arguments: Mapping[str, JsonValue]
    dialect: Dialect


def _parts(
    path: str, arguments: Mapping[str, JsonValue], place: str, names: Mapping[str, Sequence[str]]
) -> Iterator[_Part]:
    inner = list(_inner(arguments, f"{place}.arguments"))
    if not inner:
        yield _Part(path, place, arguments, keywords.dialect(path, arguments, names.get(path, ())))
    for where, item in inner:
        yield from _parts(item["calculator"], item.get("arguments", {}), where, names)


def _inner(value: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Outermost descriptions of calculators inside arguments."""
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        if is_description(item):
            yield f"{place}.{key}", item
        elif isinstance(item, dict | list):
            yield from _inner(item, f"{place}.{key}")


def _argument(part: _Part, what: str) -> tuple[str, int] | None:
    """Key and value with which the arguments state the charge or the multiplicity; None if they do not."""
    d = part.dialect
    paths = [(d.charge, 0)] if what == "charge" else [(d.multiplicity, 0), (d.unpaired, 1)]
    if what != "charge":
        paths += [(path, 0) for path in d.stated] + [((name,), 1) for name in keywords.UNPAIRED if d.unpaired is None]
    for path, more in paths:
        value = None if path is None else keywords.get(part.arguments, path)
        if path is not None and len(path) > 1 and value is None:
            value = keywords.get(part.arguments, (path[0], path[-1]))  # ASE also accepts sections without nesting
        # A boolean is a switch that has the name of a number, such as Turbomole's uhf.
        if path is None or value is None or (isinstance(value, bool) and path not in (d.charge, d.multiplicity)):
            continue
        key = f"{part.place}.arguments.{'.'.join(path)}"
        if isinstance(value, bool | str | list | dict) or not float(value).is_integer():
            raise ConfigError(key, value, "a whole number of electrons")
        return key, round(value) + more
    return None


def _same(found: list[tuple[str, int]]) -> tuple[str, int] | None:
    for key, value in found[1:]:
        if value != found[0][1]:
            raise ConfigError(key, value, f"{found[0][1]}, as {found[0][0]}: one structure has one state")
    return found[0] if found else None


def _refuse_other_spin(part: _Part, electrons: Electrons) -> None:
    """Refuse arguments that allow no unpaired electrons, or state another spin."""
    unpaired, stated = electrons.multiplicity - 1, electrons.multiplicity_from == "structure"
    for name, value in keywords.RESTRICTED.items():
        matters = unpaired and (stated or electrons.multiplicity > electrons.lowest)
        if matters and name in part.arguments and part.arguments[name] == value:
            allowed = f"one that allows multiplicity {electrons.multiplicity}"
            raise ConfigError(f"{part.place}.arguments.{name}", value, allowed)
    spin = part.arguments.get("spin")
    if not stated or isinstance(spin, bool) or not isinstance(spin, int | float):
        return
    if spin not in (unpaired, unpaired + 1, unpaired / 2):
        raise ConfigError(f"{part.place}.arguments.spin", spin, f"one for multiplicity {unpaired + 1} of the structure")


def _refuse_deaf(part: _Part, electrons: Electrons, reads: Sequence[str]) -> None:
    """Refuse a calculator without a keyword for a charge or spin that matters."""
    d = part.dialect
    if d.blind or reads or d.reads:
        return
    help_ = (
        "for one whose keywords are not known state it by engine.reads: [info] where it reads charge, spin and "
        "multiplicity of atoms.info, [initial] where it sums initial charges and moments, [arguments] where "
        "engine.arguments, or the calculator as it is, are for this state"
    )
    if electrons.charge != 0 and d.charge is None:
        allowed = f"0 with {part.path} ({part.place}), which has no keyword for it; {help_}"
        raise ConfigError("structure.charge", electrons.charge, allowed)
    hears = d.multiplicity or d.unpaired or d.sums_moments or d.holds_moments
    if electrons.multiplicity > electrons.lowest and electrons.multiplicity_from == "structure" and not hears:
        allowed = f"{electrons.lowest} with {part.path} ({part.place}), which has no keyword for it; {help_}"
        raise ConfigError("structure.multiplicity", electrons.multiplicity, allowed)


def _applied(
    path: str,
    arguments: dict[str, JsonValue],
    place: str,
    names: Mapping[str, Sequence[str]],
    electrons: Electrons,
    moments: Sequence[float] | None,
) -> dict[str, JsonValue]:
    """Add charge and spin to the arguments, also to those of calculators described in them."""

    def inside(value: Any, where: str) -> Any:
        if is_description(value):
            inner = _applied(value["calculator"], value.get("arguments", {}), where, names, electrons, moments)
            return {**value, "arguments": inner} if inner or "arguments" in value else value
        if isinstance(value, dict):
            return {key: inside(item, f"{where}.{key}") for key, item in value.items()}
        return [inside(item, f"{where}.{i}") for i, item in enumerate(value)] if isinstance(value, list) else value

    if any(True for _ in _inner(arguments, place)):
        return {key: inside(value, f"{place}.arguments.{key}") for key, value in arguments.items()}
    d = keywords.dialect(path, arguments, names.get(path, ()))
    told = arguments
    if d.charge is not None and (d.always or electrons.charge or electrons.charge_from == "structure"):
        told = _put(told, d.charge, electrons.charge)
    stated = electrons.multiplicity_from in ("structure", "sum of the initial moments")
    if d.multiplicity is not None and (d.always or stated or electrons.multiplicity > 1):
        told = _put(told, d.multiplicity, electrons.multiplicity)
    unpaired = electrons.multiplicity - 1
    if d.unpaired is not None and electrons.multiplicity_from == "structure":
        told = _put(told, d.unpaired, unpaired)
    if unpaired and (d.multiplicity is not None or electrons.multiplicity_from == "structure"):
        for name, value in d.open_shell.items():
            where = tuple(name.split("."))
            told = told if keywords.get(told, where) is not None else keywords.put(told, where, value)
    return _holding(told, place, electrons, moments) if d.holds_moments else told


def _put(arguments: dict[str, JsonValue], path: keywords.Path, value: int) -> dict[str, JsonValue]:
    """Set an argument with `keywords.put`, unless the user has set it already."""
    flat = (path[0], path[-1])
    said = keywords.get(arguments, path) is not None or (len(path) > 1 and keywords.get(arguments, flat) is not None)
    return arguments if said else keywords.put(arguments, path, value)


def _holding(
    arguments: dict[str, JsonValue], place: str, electrons: Electrons, moments: Sequence[float] | None
) -> dict[str, JsonValue]:
    """Arguments for GPAW: a stated multiplicity must be the sum of the initial moments, and that sum is kept fixed."""
    unpaired = electrons.multiplicity - 1
    if electrons.multiplicity_from != "structure" or (moments is None and unpaired == 0):
        return arguments
    if moments is None or abs(abs(float(np.sum(moments))) - unpaired) > WHOLE:
        total = "there are none" if moments is None else f"theirs is {float(np.sum(moments)):g}"
        raise ConfigError(
            "structure.multiplicity",
            electrons.multiplicity,
            f"with GPAW one that belongs to the sum of the initial moments ({total}); give moments that add up to "
            f"{unpaired}, or leave the multiplicity out",
        )
    occupations = arguments.get("occupations")
    if not isinstance(occupations, dict):
        raise ConfigError(
            f"{place}.arguments.occupations",
            occupations,
            "{name: ..., fixmagmom: true}, so that the multiplicity is kept",
        )
    return {**arguments, "occupations": {"fixmagmom": True, **occupations}}


def _with_atoms(
    arguments: dict[str, JsonValue],
    parts: Sequence[_Part],
    structure: Structure,
    electrons: Electrons,
    moments: Sequence[float] | None,
    reads: Sequence[str],
) -> Told:
    state, n = structure.electronic, len(structure.numbers)
    dialects = [part.dialect for part in parts]
    reading = {*reads, *(name for dialect in dialects for name in dialect.reads)}
    charges = None if state.charges is None else tuple(float(x) for x in state.charges)
    start, remarks = None if moments is None else tuple(float(x) for x in moments), []
    if "initial" in reading and charges is None and electrons.charge:
        charges = spread(electrons.charge, n)
        remarks.append(f"initial charges: {electrons.charge} shared out over the atoms")
    unpaired = electrons.multiplicity - 1
    summing = "initial" in reading or any(d.sums_moments for d in dialects)
    if summing and unpaired != round(abs(float(np.sum(start or 0.0)))):
        if start is not None and np.any(start) and electrons.multiplicity_from == "structure":
            allowed = (
                f"{unpaired} μB in all, for multiplicity {electrons.multiplicity}: {parts[0].path} takes their sum"
            )
            raise DataError(f"structure: got initial moments {list(start)}; allowed: {allowed}")
        start = spread(unpaired, n)
        remarks.append(f"initial moments: {unpaired} μB shared out over the atoms")
    info: dict[str, Plain] = dict(state.info)
    if "info" in reading or electrons.charge_from:
        info["charge"] = electrons.charge
    if "info" in reading or electrons.multiplicity_from:
        info["spin"] = info["multiplicity"] = electrons.multiplicity
    held = any(d.holds_moments for d in dialects) and electrons.multiplicity_from == "structure"
    if moments is not None and np.any(moments):
        total, largest = float(np.sum(moments)), float(np.abs(moments).max())
        of = " of the structure" if state.moments is not None and np.any(state.moments) else ""
        remarks.append(f"initial moments{of}: sum {total:g} μB, largest {largest:g} μB")
    start, unused = _usable_moments(start, parts)
    concerned = reading or any(d.charge or d.multiplicity for d in dialects)
    stated = electrons.charge_from or electrons.multiplicity_from
    spin_told = electrons.multiplicity_from or reading or any(d.multiplicity or d.sums_moments for d in dialects)
    line = electrons.line if spin_told else electrons.line_without_spin(start)
    lines = ([line] if concerned or stated else []) + remarks + unused
    unknown = "arguments" in reads  # their meaning is not known to this program
    settled = Settled(
        electrons.charge if electrons.charge_from or (concerned and not unknown) else None,
        electrons.multiplicity if electrons.multiplicity_from or (spin_told and concerned and not unknown) else None,
    )
    tags = None if state.tags is None else tuple(int(x) for x in state.tags)
    return Told(arguments, start, charges, tags, info, not (summing or held), tuple(lines), settled)


def _usable_moments(
    moments: tuple[float, ...] | None, parts: Sequence[_Part]
) -> tuple[tuple[float, ...] | None, list[str]]:
    """Moments to pass (None if they would do harm), and a remark if single moments are not used."""
    if moments is None or not np.any(moments):
        return moments, []
    names = [part.path for part in parts if part.dialect.moments != "used"]
    if not names:
        return moments, []
    harmful = any(part.dialect.moments == "harmful" for part in parts)
    return None if harmful else moments, [f"single initial moments are not used by {', '.join(names)}: only their sum"]
