"""Published weights that are downloaded at first use and checked at every later use.

Where the SHA-256 of a file is known it must be that; otherwise that of the first download is recorded beside the file,
and a file whose checksum has changed is refused. A file is there whole or not at all. The files are read without
executing anything they contain.
"""

import hashlib
import time
from pathlib import Path
from typing import Final

from bayes_mlff.core.durable import write_whole
from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.core.paths import cache_folder
from bayes_mlff.models import licences
from bayes_mlff.models.importers import mirrors, resumable
from bayes_mlff.models.importers.resumable import TransferError, Unfinished
from bayes_mlff.models.importers.telling import Listener, progress
from bayes_mlff.models.known.entry import Download, Entry

TELL_S: Final = 0.25
"""Time between two messages about the progress, s."""


def place(name: str, origin: Download) -> Path:
    """Where the file of a model is kept."""
    return cache_folder() / f"{name}{origin.suffix}"


def fetch(known: Entry, origin: Download, key: str, *, listener: Listener) -> tuple[Path, str]:
    """The file of a model, downloaded if it is not there yet.

    Args:
      known: row of the model in the catalogue.
      origin: its source.
      key: dotted configuration key, for the error message.
      listener: told what is downloaded, from where and under which licence, and how far it is.

    Returns:
      Path and SHA-256 of the file.

    Raises:
      ConfigError: if its licence must be accepted first, or if it cannot be had from anywhere; it says what to do.
      WeightsError: if a file that is here is not the known one, or not the one that was downloaded first.
    """
    licences.require(known, key)
    kept = place(known.name, origin)
    path = kept if kept.is_file() else mirrors.local(known.name, origin) or kept
    if not path.is_file():
        _download(known, origin, key, path, listener)
    digest = _digest(path)
    record = kept.with_name(f"{kept.name}.sha256")
    if origin.sha256 is not None:
        if digest != origin.sha256:
            raise WeightsError(f"{path}: SHA-256 is {digest}; allowed: {origin.sha256}; {_again(path, kept)}")
    elif record.is_file():
        expected = record.read_text().split()[:1]
        if expected != [digest]:
            raise WeightsError(
                f"{path}: SHA-256 is {digest}; allowed: {''.join(expected) or 'nothing'}, which {record.name} recorded "
                f"when the file was first used; {_again(path, kept)}, and {record} too"
            )
    else:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_whole(record, f"{digest}  {path.name}\n".encode())
        listener.say(f"SHA-256 of {known.name}: {digest}, checked from now on")
    return path, digest


def _again(path: Path, kept: Path) -> str:
    return "remove the file to download it again" if path == kept else f"remove it there ({mirrors.VARIABLE})"


def _download(known: Entry, origin: Download, key: str, path: Path, listener: Listener) -> None:
    """Download a file from the first address that has it."""
    unfinished, failures = Unfinished(path.with_name(f"{path.name}.part")), []
    with resumable.locked(unfinished):
        if path.is_file():  # another process has downloaded it meanwhile
            return
        for url in mirrors.addresses(origin):
            listener.say(f"downloading {known.name} from {url} (licence {known.licence.name}) to {path}")
            try:
                resumable.download(url, unfinished, _tell(known.name, listener))
                _check(unfinished, origin)
            except TransferError as error:
                failures.append(f"{url}: {error}")
                listener.say(f"not from there: {error}")
                continue
            unfinished.path.replace(path)
            unfinished.discard()
            return
    folder = f"{mirrors.VARIABLE} can name folders that have it, or mirrors"
    raise ConfigError(
        key,
        known.name,
        f"a model whose file can be had; it cannot: {'; '.join(failures)}. Download it on another machine and put it "
        f"at {path} ({folder}), or choose a model that comes with the package",
    )


def _check(unfinished: Unfinished, origin: Download) -> None:
    """Refuse a file of other content than the known one."""
    if origin.sha256 is None:
        return
    digest = _digest(unfinished.path)
    if digest != origin.sha256:
        unfinished.discard()
        raise TransferError(f"it has another file: SHA-256 is {digest}, not {origin.sha256}")


def _tell(name: str, listener: Listener) -> resumable.Progress:
    """Pass the progress on, a few times per second."""
    last = float("-inf")

    def tell(done: int, total: int | None, bytes_per_s: float) -> None:
        nonlocal last
        if time.monotonic() - last >= TELL_S or done == total:
            last = time.monotonic()
            listener.working(progress(name, done, total, bytes_per_s))

    return tell


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
