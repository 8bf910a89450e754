"""Licences that forbid commercial use: accepted by name, once, before anything is downloaded."""

import os
from pathlib import Path
from typing import Final

from bayes_mlff.core.durable import make_folder, write_whole
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.paths import cache_folder
from bayes_mlff.models.catalogue import ENTRIES
from bayes_mlff.models.known.entry import Entry, Licence

VARIABLE: Final = "BAYES_MLFF_ACCEPT_LICENCE"
"""Environment variable with the names of accepted licences, separated by commas."""

OPTION: Final = "bayes-mlff models --accept-licence"
"""Command by which a licence is accepted."""


def record() -> Path:
    """File with the names of the accepted licences, one a line."""
    return cache_folder() / "accepted_licences.txt"


def restricted() -> dict[str, Licence]:
    """The licences of the catalogue that forbid commercial use, by name."""
    return {row.licence.name: row.licence for row in ENTRIES.values() if not row.licence.commercial}


def accept(name: str, key: str) -> Licence:
    """Record that the user accepts a licence; from now on no model asks for it.

    Args:
      name: of the licence, exactly as models state it.
      key: where the name is from, for the error message.

    Raises:
      ConfigError: if no model has a licence of this name that must be accepted, or it cannot be recorded.
    """
    licences = restricted()
    if name not in licences:
        raise ConfigError(key, name, f"one of {sorted(licences)}, the licences that forbid commercial use")
    if name not in _recorded():
        try:
            make_folder(record().parent)
            write_whole(record(), "".join(f"{known}\n" for known in [*_recorded(), name]).encode())
        except OSError as error:
            raise ConfigError(key, name, f"a cache folder that can be written; {record()} cannot ({error})") from error
    return licences[name]


def accepted(licence: Licence) -> bool:
    """Whether the user has accepted a licence before."""
    return licence.name in _recorded()


def require(known: Entry, key: str) -> None:
    """Refuse a model whose licence forbids commercial use and was not accepted.

    Args:
      known: row of the model.
      key: dotted configuration key, for the error message.

    Raises:
      ConfigError: naming the licence, where its text is, and how it is accepted.
    """
    licence = known.licence
    if licence.commercial or accepted(licence):
        return
    given = [part.strip() for part in os.environ.get(VARIABLE, "").split(",")]
    if licence.name in given:
        accept(licence.name, VARIABLE)
        return
    raise ConfigError(
        key,
        known.name,
        f"a model whose licence you have accepted. The weights of {known.name} are under the {licence.title} "
        f"({licence.name}), which forbids commercial use; its text is at {licence.address}. If you accept it, say so "
        f"once with: {OPTION} {licence.name} (or set {VARIABLE}={licence.name}). Nothing was downloaded",
    )


def _recorded() -> list[str]:
    try:
        return record().read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return []
