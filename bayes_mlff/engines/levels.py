"""Levels of theory of ASE calculators, as far as they follow from their arguments."""

from collections.abc import Callable, Mapping
from typing import Final

from pydantic import JsonValue

from bayes_mlff.data.level import Level, named
from bayes_mlff.engines.keywords import ALIASES

Arguments = Mapping[str, JsonValue]

_VASP_DISPERSION: Final = {0: "", 10: "D2", 11: "D3(0)", 12: "D3(BJ)", 13: "D4", 2: "TS", 20: "TS"}
"""Dispersion corrections by IVDW."""


def of_calculator(path: str, arguments: Arguments) -> Level | None:
    """The level of a calculator; None if it is not known.

    Args:
      path: import path, as in `engine.calculator`.
      arguments: keyword arguments of the calculator.
    """
    dotted = path.replace(":", ".")
    known = _LEVELS.get(ALIASES.get(dotted, dotted))
    return None if known is None else known(arguments)


def _tight_binding(arguments: Arguments) -> Level:
    # Its methods contain a dispersion correction of their own.
    return Level(str(arguments.get("method", "GFN2-xTB")), dispersion=None)


def _gpaw(arguments: Arguments) -> Level | None:
    xc, setups = arguments.get("xc", "LDA"), arguments.get("setups")
    if not isinstance(xc, str):
        return None
    # A setup such as ":d,4.0" has a +U correction.
    items = setups.items() if isinstance(setups, dict) else ()
    return named(xc, hubbard=tuple(element for element, setup in items if isinstance(setup, str) and "," in setup))


def _vasp(arguments: Arguments) -> Level | None:
    xc, kind = arguments.get("xc"), arguments.get("ivdw", 0)
    if not isinstance(xc, str):
        return None
    level = named(xc, hubbard=None if arguments.get("ldau") or arguments.get("ldau_luj") else ())
    return level if level.dispersion else level._replace(dispersion=_VASP_DISPERSION.get(kind, None))  # pyright: ignore


_LEVELS: Final[Mapping[str, Callable[[Arguments], Level | None]]] = {
    "tblite.ase.TBLite": _tight_binding,
    "xtb.ase.calculator.XTB": _tight_binding,
    "gpaw.GPAW": _gpaw,
    "ase.calculators.vasp.Vasp": _vasp,
    "ase.calculators.emt.EMT": lambda arguments: Level("EMT", dispersion=None),
}
