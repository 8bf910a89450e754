"""Refuses unknown arguments of a calculator, above all other names for charge and spin, which it would ignore."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.engines import keywords
from bayes_mlff.engines.keywords import Dialect

_COMMON: Final = ("atoms", "directory", "ignore_bad_restart_file", "label", "restart")
"""Arguments of every ASE calculator."""


def check(path: str, place: str, arguments: Mapping[str, Any], dialect: Dialect, names: Iterable[str]) -> None:
    """Refuse arguments for charge or spin that would be ignored; and any unknown argument if all keywords are known.

    Args:
      path: import path of the calculator.
      place: dotted key of the calculator in the configuration.
      arguments: arguments of the calculator.
      dialect: its keywords for charge and spin.
      names: keywords that it declares, see `factories.keywords`.

    Raises:
      ConfigError: naming the argument, and the keyword to use instead.
    """
    known = keywords.is_known(path)
    taken = set(names)
    own = {p[0] for p in _paths(dialect)}
    for name, value in arguments.items():
        key = f"{place}.arguments.{name}"
        if name in own or (name in taken and not (known and _quantity(name))):
            continue
        cased = next((other for other in sorted(own | taken) if other.lower() == name.lower()), None)
        if cased is not None:
            raise ConfigError(key, value, f"{cased!r}, as {path} spells it: it takes no notice of other spellings")
        _refuse_synonym(path, key, name, value, dialect, known)
        if dialect.complete and taken and name not in (*_COMMON, *keywords.UNPAIRED):
            near = difflib.get_close_matches(name, sorted(taken), n=1)
            meant = f"{near[0]!r}, or another" if near else "one"
            raise ConfigError(key, value, f"{meant} of the arguments of {path}: {', '.join(sorted(taken))}")
    for where, section in _sections(arguments, dialect):
        inside = {p[-1].lower() for p in _paths(dialect)}
        for name, value in section.items():
            if name.lower() not in inside and not isinstance(value, dict):
                _refuse_synonym(path, f"{place}.arguments.{where}.{name}", name, value, dialect, known)


def _paths(dialect: Dialect) -> list[keywords.Path]:
    return [p for p in (dialect.charge, dialect.multiplicity, dialect.unpaired, *dialect.stated) if p is not None]


def _sections(arguments: Mapping[str, Any], dialect: Dialect) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Sections of the arguments that may contain charge and spin: (dotted key, section), each once."""
    for prefix in dict.fromkeys(p[:depth] for p in _paths(dialect) for depth in range(1, len(p))):
        section = keywords.get(arguments, prefix)
        if isinstance(section, dict):
            yield ".".join(prefix), section


def _quantity(name: str) -> str:
    """Quantity that a name means, ignoring case and separators; empty if none."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((what for what, some in keywords.MEANINGS.items() if plain in some), "")


def _refuse_synonym(path: str, key: str, name: str, value: Any, dialect: Dialect, known: bool) -> None:
    what = _quantity(name)
    if not what or value is None or isinstance(value, bool) or (what == "spin" and not _is_number(value)):
        return
    spin = dialect.multiplicity or dialect.unpaired
    right = dialect.charge if what == "charge" else spin
    if name in keywords.UNPAIRED and dialect.unpaired is None and (dialect.multiplicity or dialect.sums_moments):
        return  # it is read as 2S and passed with the calculator's own keyword
    if not known and (right is None or name in keywords.UNPAIRED or what == "spin"):
        return  # the keywords of this calculator are not known
    if right is None and what != "charge" and dialect.stated:
        right = dialect.stated[0]
    if right is None:
        setting = "structure.charge" if what == "charge" else "structure.multiplicity"
        raise ConfigError(key, value, f"nothing: {path} has no such keyword; state {setting}")
    meaning = "" if what == "charge" else " (2S)" if right == dialect.unpaired else " (2S + 1)"
    raise ConfigError(key, value, f"{'.'.join(right)!r}{meaning}, the keyword of {path}: it ignores this one")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
