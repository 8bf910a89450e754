"""Names of remarks and columns of a structure's file, and what they seem to mean."""

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from bayes_mlff.core.errors import DataError, shown

_POPULATIONS: Final = re.compile(
    r"mulliken|hirshfeld|bader|l[oö]wdin|ddec|voronoi|(?<![a-z])(resp|esp|nbo|npa|cm5)(?![a-z])"
    r"|^(ref|dft|pred\w*|mace|computed|calc\w*|ml|nn|target)_",
    re.IGNORECASE,
)
"""Names of results of a calculation."""

_METHOD: Final = re.compile(
    r"method|model|type|scheme|density|tol|cutoff|mixing|conv|error|rmse|weight|unit|label|pol|orbit|contamin|squared"
    r"|channel|component|nspin|ispin|transfer|spinor|energ|force|discharge|recharge|temperature",
    re.IGNORECASE,
)
"""Names of settings and results that have to do with charge or spin, but do not state them."""

_CHARGE: Final = re.compile(r"charge|(^|_)(chg|chrg)(_|$)|^(total_|tot_|net_)?q(_?tot(al)?)?$", re.IGNORECASE)
_ELECTRONS: Final = re.compile(
    r"electrons|(^|_)n_?el(_|$)|(^|_)n_?elec|num_?elec|electron_?(count|number)", re.IGNORECASE
)
_SPIN: Final = re.compile(
    r"spin|multiplicit|unpaired|open_?shell|(^|_)n_?open|^n_?(up|down|alpha|beta)$|(^|_)mult(_|$)|^(m_?s|s_?z|s|2s|2s\+1)$",
    re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"([+-]?\d+(\.\d*)?|\d+(?=[+-]))([+-]?)")
_SAYING: Final = re.compile(r"cation|anion|radical|charged|singlet|doublet|triplet|quartet|quintet", re.IGNORECASE)
_NONE: Final = ("", "no", "none", "off", "false", "f", "n/a", "[]")


def tokens(name: str) -> list[str]:
    """Words of a name in lower case: `fixedAtoms` and `fixed_atoms` are fixed, atoms."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", str(name))]


def says_nothing(value: Any) -> bool:
    """True of None, False, zeros, and words and lists of none."""
    return not any(bool(x) and str(x).strip().lower() not in _NONE for x in array(value).ravel().tolist())


def array(value: Any) -> np.ndarray:
    """A value as an array, of Python objects where it is none of numbers or texts."""
    try:
        return np.asarray(value)
    except ValueError:  # lists of unequal lengths
        return np.asarray(value, object)


def is_result(name: str) -> bool:
    """Whether a name is that of populations or of a label."""
    return _POPULATIONS.search(str(name)) is not None


def number(value: Any) -> float | None:
    """The one number that a value is, also as text such as `+1` and `2-`; None if it is none."""
    if isinstance(value, np.ndarray | np.generic) and np.size(value) == 1:
        value = value.reshape(-1)[0].item()
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    match = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    return None if match is None else float(match[1]) * (-1.0 if match[3] == "-" else 1.0)


def told(value: Any) -> str:
    """A value as a file has it."""
    return shown(value.item() if isinstance(value, np.generic) else value)


def check_electrons(
    info: Mapping[Any, Any], known: set[str], protons: int, charge: int | None, multiplicity: int | None
) -> None:
    """Refuse remarks that seem to state charge or spin in words that are not understood, unless they fit what is known.

    Args:
      info: remarks of a file.
      known: names, in lower case, that are understood.
      protons: of all nuclei.
      charge: total charge as stated, e.
      multiplicity: spin multiplicity 2S + 1, as stated.

    Raises:
      DataError: naming the remark.
    """
    for name, value in info.items():
        if str(name).lower() in known or _METHOD.search(str(name)) or is_result(name):
            continue
        stated = number(value)
        if _SPIN.search(str(name)):
            spins = (0,) if multiplicity is None else (multiplicity, multiplicity - 1, (multiplicity - 1) / 2)
            words, fits = "multiplicity", stated in spins
        elif _ELECTRONS.search(str(name)):
            words, fits = "charge", stated == protons - (charge or 0)
            fits = fits or (charge is not None and bool({"valence", "core"} & set(tokens(name))))
        elif _CHARGE.search(str(name)):
            words, fits = "charge", stated == (charge or 0)
        elif _SAYING.search(str(name)):
            words, fits = "charge or spin", stated in (None, 0)
        else:
            continue
        says = value is True or (isinstance(value, str) and _SAYING.search(value) is not None)
        if (stated is not None and not fits) or (says and (charge is None or multiplicity is None)):
            raise DataError(
                f"structure: {name}={told(value)} seems to state {words} and is not understood; allowed: charge=... "
                "and multiplicity=... in its place, or structure.charge and structure.multiplicity that fit it"
            )
