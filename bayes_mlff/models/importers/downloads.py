"""Published weights that are downloaded at first use and checked at every later use.

Where the SHA-256 of a file is known it must be that; otherwise that of the first download is recorded beside the file,
and a file whose checksum has changed is refused. The files are read without executing anything they contain.
"""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.core.paths import cache_folder

CHUNK: Final = 1 << 20
"""Bytes read at once."""

LARGEST: Final = 2 << 30
"""Largest accepted size of a download, bytes."""

TIMEOUT_S: Final = 30.0
"""Time limit of a connection that sends no data."""


class Download(NamedTuple):
    """Weights on the internet."""

    url: str
    licence: str
    suffix: str = ".model"
    sha256: str | None = None  # where it is known


_MACE_MP = "https://github.com/ACEsuit/mace-mp/releases/download/mace_mp_0"

_NEQUIX = "https://github.com/atomicarchitects/nequix/raw"
_MP = f"{_NEQUIX}/7c2854de8e754b1a60274c7d9d2e014989ed632e/models"
_OMAT = f"{_NEQUIX}/9c852a9c4cce69ae5e75bc5a2cf670be21ff8c28/models"

DOWNLOADS: Final[Mapping[str, Download]] = {
    "mace-mp-0-small": Download(f"{_MACE_MP}/2023-12-10-mace-128-L0_energy_epoch-249.model", "MIT"),
    "mace-mp-0-medium": Download(f"{_MACE_MP}/2023-12-03-mace-128-L1_epoch-199.model", "MIT"),
    "nequix-mp-1": Download(
        f"{_MP}/nequix-mp-1.nqx", "MIT", ".nqx", "1647af8e627e1afa11e2bfadeab0797326513a521afd7dd01606a96f56783eee"
    ),
    "nequix-mp-1-pft": Download(f"{_MP}/nequix-mp-1-pft.nqx", "MIT", ".nqx"),
    "nequix-omat-1": Download(
        f"{_OMAT}/nequix-omat-1.nqx", "MIT", ".nqx", "2d0802ae7f5915cb488c44d25649d98404a103697e6500abb40f515e003a46a6"
    ),
    "nequix-oam-1": Download(
        f"{_OMAT}/nequix-oam-1.nqx", "MIT", ".nqx", "6a43475eaeb32a7a049f36c1306d78aa1e7a17e8af37aeda7901c8fec0ca845c"
    ),
    "nequix-oam-1-pft": Download(f"{_OMAT}/nequix-oam-1-pft.nqx", "MIT", ".nqx"),
}
"""Models by the name used in configurations; addresses are those that mace-torch and nequix download from."""


def names(suffix: str) -> list[str]:
    """The models whose files have this suffix."""
    return [name for name, origin in DOWNLOADS.items() if origin.suffix == suffix]


def place(name: str, origin: Download) -> Path:
    """Where the file of a model is kept."""
    return cache_folder() / f"{name}{origin.suffix}"


def fetch(
    name: str, key: str, *, say: Callable[[str], None], catalogue: Mapping[str, Download] = DOWNLOADS
) -> tuple[Path, str]:
    """The file of a model, downloaded if it is not there yet.

    Args:
      name: a key of `catalogue`.
      key: dotted configuration key, for the error message.
      say: receives a line that states what is downloaded, from where and under which licence.
      catalogue: available models.

    Returns:
      Path and SHA-256 of the file.

    Raises:
      ConfigError: if there is no connection; it says what to do.
      WeightsError: if the file is not the known one, or not the one that was downloaded first.
    """
    origin = catalogue[name]
    path = place(name, origin)
    record = path.with_name(f"{path.name}.sha256")
    if not path.is_file():
        say(f"downloading {name} from {origin.url} (licence {origin.licence}) to {path}")
        _download(name, key, origin, path)
    digest = _digest(path)
    if origin.sha256 is not None:
        if digest != origin.sha256:
            raise WeightsError(
                f"{path}: SHA-256 is {digest}; allowed: {origin.sha256}; remove the file to download it again"
            )
    elif record.is_file():
        expected = record.read_text().split()[:1]
        if expected != [digest]:
            raise WeightsError(
                f"{path}: SHA-256 is {digest}; allowed: {''.join(expected) or 'nothing'}, which {record.name} recorded "
                "when the file was first used; remove both files to download it again"
            )
    else:
        _write(record, f"{digest}  {path.name}\n".encode())
        say(f"SHA-256 of {name}: {digest}, checked from now on")
    return path, digest


def _download(name: str, key: str, origin: Download, path: Path) -> None:
    try:
        with urllib.request.urlopen(origin.url, timeout=TIMEOUT_S) as answer:
            content = bytearray()
            while block := answer.read(CHUNK):
                content += block
                if len(content) > LARGEST:
                    raise ConfigError(key, name, f"a file below {LARGEST >> 30} GiB; {origin.url} gives more")
            announced = answer.headers.get("Content-Length")
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            key,
            name,
            f"a model whose file can be had; {origin.url} cannot be reached ({reason}). Download it on another "
            f"machine and put it at {path}, or choose a model that comes with the package",
        ) from error
    if announced is not None and int(announced) != len(content):
        raise ConfigError(key, name, f"a whole file; {origin.url} broke off after {len(content)} of {announced} bytes")
    _write(path, bytes(content))


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
