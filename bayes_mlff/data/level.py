"""Levels of theory, and in which kind two of them differ."""

import re
from collections.abc import Collection
from typing import Final, NamedTuple

NONE: Final = ""
"""Dispersion of a level without any correction for it."""


class Level(NamedTuple):
    """With what energies and forces were calculated: the parts by which levels differ in kind."""

    functional: str  # as in the literature, e.g. PBE, r2SCAN, ωB97M; or another method, e.g. GFN2-xTB, CCSD(T)
    hubbard: tuple[str, ...] | None = ()  # elements with a +U correction; None: not known
    hubbard_with: tuple[str, ...] = ()  # if given, that correction is made only beside one of these elements
    dispersion: str | None = NONE  # e.g. D3(BJ), TS, VV10; None: not known

    @property
    def text(self) -> str:
        """The level in a few characters, e.g. PBE+U, ωB97M-D3(BJ)."""
        plus_u = "+U" if self.hubbard else "(+U?)" if self.hubbard is None else ""
        dispersion = f"-{self.dispersion}" if self.dispersion else ""
        return f"{self.functional}{plus_u}{dispersion}"

    def corrected(self, symbols: Collection[str]) -> frozenset[str] | None:
        """Elements of a structure that get a +U correction at this level; None: not known."""
        if self.hubbard is None:
            return None
        if self.hubbard_with and not set(self.hubbard_with) & set(symbols):
            return frozenset()
        return frozenset(self.hubbard) & frozenset(symbols)


SPELT: Final = {
    "d3bj": "D3(BJ)",
    "d3": "D3",
    "d3zero": "D3(0)",
    "d4": "D4",
    "ts": "TS",
    "v": "VV10",
    "vv10": "VV10",
}
"""Dispersion corrections by their plain spelling, as names of functionals end in them."""

_WRITTEN: Final = {"r2scan": "r2SCAN", "wb97m": "ωB97M", "wb97x": "ωB97X", "revpbe": "revPBE"}


def named(xc: str, dispersion: str | None = None, hubbard: tuple[str, ...] | None = ()) -> Level:
    """The level of a functional as programs spell it, e.g. b3lyp, PBE, wb97m-v, b3lyp-d3bj.

    Args:
      xc: the functional, with or without a dispersion correction.
      dispersion: a correction that is made in addition.
      hubbard: elements with a +U correction; None: not known.
    """
    exchange, _, correlation = xc.partition(",")
    name = exchange if _plain(exchange) == _plain(correlation) else xc
    stem, sign, end = name.replace("_", "-").rpartition("-")
    if not sign or _plain(end) not in SPELT:
        stem, end = name, ""
    said = dispersion or end
    written = _WRITTEN.get(_plain(stem), stem.upper() if stem.islower() else stem)
    return Level(written, hubbard, dispersion=SPELT.get(_plain(said), said))


def differences(trained: Level, reference: Level, symbols: Collection[str]) -> list[str]:
    """In which kind the level of a model differs from that of a reference, for structures of these elements.

    Values that one of them does not state are not compared.

    Returns:
      One phrase for each difference, with the model's value first.
    """
    found = []
    if _plain(trained.functional) != _plain(reference.functional):
        found.append(f"functional {trained.functional}, not {reference.functional}")
    ours, theirs = trained.corrected(symbols), reference.corrected(symbols)
    if ours is not None and theirs is not None and ours != theirs:
        found.append(f"{_plus_u(ours)}, not {_plus_u(theirs)}")
    if trained.dispersion is not None and reference.dispersion is not None:
        one, other = trained.dispersion, reference.dispersion
        if _plain(one) != _plain(other):
            found.append(f"{_dispersion(one)}, not {_dispersion(other)}")
    return found


def _plain(name: str) -> str:
    """Spellings of one name are equal without signs: r²SCAN, R2SCAN; D3(BJ), d3bj; ωB97M, wb97m."""
    spelt = name.lower().replace("ω", "w").replace("²", "2")
    return re.sub(r"[^a-z0-9]", "", spelt)


def _plus_u(elements: Collection[str]) -> str:
    return f"+U on {', '.join(sorted(elements))}" if elements else "no +U"


def _dispersion(name: str) -> str:
    return f"dispersion {name}" if name else "no dispersion"
