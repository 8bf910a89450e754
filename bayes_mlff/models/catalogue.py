"""The table of all models that a configuration can name; light to import, so that it can be listed at once."""

import difflib
import hashlib
import importlib.util
from importlib import resources
from pathlib import Path
from typing import Final

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.paths import cache_folder
from bayes_mlff.models.known.entry import Entry, InPackage, Shipped
from bayes_mlff.models.known.equiformer_v2 import EQUIFORMER_V2
from bayes_mlff.models.known.mace import MACE
from bayes_mlff.models.known.nequip import NEQUIP, SHIPPED

LAYOUT: Final = 1
"""Version of converted files; to be increased when a conversion changes, so that older files are no longer used."""

ENTRIES: Final[dict[str, Entry]] = {row.name: row for row in (*SHIPPED, *NEQUIP, *MACE, *EQUIFORMER_V2)}
"""All models by name, in the order in which they are listed."""

NAMES: Final = tuple(ENTRIES)
"""Names of all models."""

CHEAPEST: Final = "mace-perovskite-small"
"""The model of the lowest cost of a step, in units of which costs are given."""

OWN: Final = " and ".join(row.name for row in SHIPPED)
"""Those that come with this package, as text."""


def entry(name: str, key: str = "model") -> Entry:
    """The row of a model.

    Raises:
      ConfigError: naming `key` and the models whose names are similar.
    """
    if name not in ENTRIES:
        raise ConfigError(key, name, allowed(name))
    return ENTRIES[name]


def suggestion(name: str) -> str:
    """Known names similar to another one, as the beginning of a phrase; empty if there are none."""
    plain = name.lower().replace("_", "-")
    # Who leaves a part out means a longer name; whose letters are wrong means one of about the same length.
    near = difflib.get_close_matches(plain, NAMES, n=3, cutoff=0.7)
    near += [known for known in NAMES if len(plain) > 2 and plain in known and known not in near][:6]
    return f"{' or '.join(near)} (similar), or " if near else ""


def allowed(name: str) -> str:
    """What a name that is not in the table could have been, as a phrase."""
    return f"{suggestion(name)}a name that 'bayes-mlff models' lists ({OWN} come with this package)"


def by_digest(digest: str) -> Entry | None:
    """The model whose published file has this SHA-256; None if it is none of those whose checksum is known."""
    return next((known for known in ENTRIES.values() if known.sha256 == digest), None)


def by_content(path: Path) -> Entry | None:
    """The model of which a file is the published one, whatever its name and place."""
    with path.open("rb") as file:
        return by_digest(hashlib.file_digest(file, "sha256").hexdigest())


def shipped(source: Shipped) -> Path:
    """Path of a file that comes with this package."""
    return Path(str(resources.files("bayes_mlff.models") / "pretrained" / source.file))


def cached(name: str, digest: str, head: str | None = None) -> Path:
    """Path of the converted weights of another project's model, with the digest of the original and the layout."""
    # Names of heads are anything, names of files are not.
    of = "" if head is None else f"-{hashlib.sha256(head.encode()).hexdigest()[:16]}"
    return cache_folder() / f"{name}-{digest}{of}-v{LAYOUT}.safetensors"


def converted(known: Entry) -> Path | None:
    """The converted weights of a model that was used before; None if it was not."""
    if known.sha256 is not None:
        path = cached(known.name, known.sha256)
        return path if path.is_file() else None
    # The name may be the beginning of another one, and the digest has no dash.
    found = sorted(cache_folder().glob(f"{known.name}-*-v{LAYOUT}.safetensors"))
    length = len(cached(known.name, "0" * 64).name)
    return next((path for path in found if len(path.name) == length), None)


def in_package(source: InPackage) -> Path | None:
    """Path of a file in an installed package, which is not imported; None if it is not there."""
    spec = importlib.util.find_spec(source.package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    paths = (Path(folder) / source.path for folder in folders)
    return next((path for path in paths if path.is_file()), None)
