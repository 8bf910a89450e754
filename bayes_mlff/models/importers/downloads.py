"""Published weights that are downloaded at first use and checked at every later use.

The SHA-256 of these files is not published. That of the first download is recorded beside the file, and a file whose
checksum has changed is refused. The files are read without executing anything they contain.
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


_MACE_MP = "https://github.com/ACEsuit/mace-mp/releases/download/mace_mp_0"

DOWNLOADS: Final[Mapping[str, Download]] = {
    "mace-mp-0-small": Download(f"{_MACE_MP}/2023-12-10-mace-128-L0_energy_epoch-249.model", "MIT"),
    "mace-mp-0-medium": Download(f"{_MACE_MP}/2023-12-03-mace-128-L1_epoch-199.model", "MIT"),
}
"""Models by the name used in configurations; addresses are those that mace-torch itself downloads from."""


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
      WeightsError: if the file is not the one that was downloaded first.
    """
    origin, folder = catalogue[name], cache_folder()
    path, record = folder / f"{name}.model", folder / f"{name}.model.sha256"
    if not path.is_file():
        say(f"downloading {name} from {origin.url} (licence {origin.licence}) to {path}")
        _download(name, key, origin, path)
    digest = _digest(path)
    if record.is_file():
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
