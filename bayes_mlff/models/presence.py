"""Whether a model is on this machine, and where."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

from bayes_mlff.models import catalogue
from bayes_mlff.models.importers import downloads
from bayes_mlff.models.known.entry import Entry, InPackage, Shipped


class Presence(NamedTuple):
    """Where a model is, or how it gets here."""

    path: Path | None  # None: it is not here
    text: str  # in one or two words


def of(known: Entry) -> Presence:
    """Whether a model is here; nothing is downloaded or converted."""
    source = known.source
    if isinstance(source, Shipped):
        return Presence(catalogue.shipped(source), "here")
    converted = catalogue.converted(known)
    if isinstance(source, InPackage):
        path = catalogue.in_package(source)
        if path is None and converted is None:
            installed = importlib.util.find_spec(source.package) is not None
            return Presence(None, f"other {source.package}" if installed else f"pip: [{source.extra}]")
        return Presence(path or converted, "here")
    kept = downloads.place(known.name, source)
    path = kept if kept.is_file() else converted
    return Presence(path, "download" if path is None else "here")
