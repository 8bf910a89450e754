"""One file over HTTP, written to the disk as it comes; what has come is kept when the connection breaks off.

Beside the unfinished file `NAME.part` is `NAME.part.json`, which says from where it is and what the server said of the
whole file. A later attempt asks for the rest, if it can be sure that the server still has the same file: the server
must give the same ETag or date (`If-Range`, RFC 9110), and the answer must continue at the right byte of a file of the
same length. Otherwise it starts afresh.
"""

import contextlib
import fcntl
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

CHUNK: Final = 1 << 18
"""Bytes read at once."""

LARGEST: Final = 2 << 30
"""Largest accepted size of a file, bytes."""

TIMEOUT_S: Final = 30.0
"""Time limit of a connection that sends no data."""

ATTEMPTS: Final = 4
"""Connections to one address, as long as each brings the file further."""

PAUSE_S: Final = 1.0
"""Time before another connection after one that broke off."""

Progress = Callable[[int, int | None, float], None]
"""Called with the bytes that are here, those of the whole file if they are known, and bytes per second."""


class TransferError(Exception):
    """A file could not be had from an address; the text says why."""


class Unfinished(NamedTuple):
    """A file that is being downloaded, and the note beside it."""

    path: Path

    @property
    def note(self) -> Path:
        """File with what is known about the whole file."""
        return self.path.with_name(f"{self.path.name}.json")

    def size(self) -> int:
        """Bytes that are here."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def read_note(self) -> dict[str, Any]:
        """What was noted; empty if that is nothing or damaged."""
        try:
            found = json.loads(self.note.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def discard(self) -> None:
        """Remove both."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(unfinished: Unfinished) -> Iterator[None]:
    """Let one process at a time write a file, on file systems that know locks."""
    unfinished.path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished.path.with_name(f"{unfinished.path.name}.lock").open("ab") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def download(url: str, unfinished: Unfinished, progress: Progress) -> None:
    """Download a whole file, or the rest of it, into `unfinished`.

    Raises:
      TransferError: if it could not be had as a whole; what has come is kept if it can be continued.
    """
    for attempt in range(ATTEMPTS):
        before = unfinished.size()
        try:
            _connect(url, unfinished, progress)
            return
        except _BrokenOffError as error:
            if attempt < ATTEMPTS - 1 and unfinished.size() > before:
                time.sleep(PAUSE_S)
                continue
            size = unfinished.size()
            kept = f"; the {size} bytes that came are kept, and the next attempt goes on from there"
            raise TransferError(f"{error}{kept if size and _validator(unfinished.read_note()) else ''}") from error


class _BrokenOffError(Exception):
    """A connection ended before the file did."""


def _connect(url: str, unfinished: Unfinished, progress: Progress) -> None:
    note, start = unfinished.read_note(), unfinished.size()
    validator = _validator(note) if note.get("url") == url else None
    request = urllib.request.Request(url)
    if start and validator:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", validator)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            total = _continues(answer, note, start) if answer.status == 206 else None
            if total is None:
                if answer.status == 206:  # the rest of another file, or not what was asked for
                    unfinished.discard()
                    raise _BrokenOffError("the server has another file than before")
                start, total = 0, _length(answer)
                unfinished.discard()
                unfinished.note.write_text(json.dumps(_described(url, answer, total)))
            _copy(answer, unfinished, start, total, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing behind what is here: whole, or of another file
            if _total(error.headers.get("Content-Range")) == start == note.get("size"):
                return
            unfinished.discard()
            raise _BrokenOffError("the server has another file than before") from error
        raise TransferError(f"{error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise TransferError(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(f"the connection broke off ({type(error).__name__}: {error})") from error


def _copy(answer: Any, unfinished: Unfinished, start: int, total: int | None, progress: Progress) -> None:
    """Append what a server sends to a file that has `start` bytes already."""
    done, began = start, time.monotonic()
    _check_size(unfinished, total or 0)
    with unfinished.path.open("ab") as file:
        while block := answer.read(CHUNK):
            try:
                file.write(block)
                file.flush()
            except OSError as error:
                raise TransferError(f"{unfinished.path} cannot be written ({error.strerror})") from error
            done += len(block)
            _check_size(unfinished, done)
            progress(done, total, (done - start) / max(time.monotonic() - began, 1e-6))
    if total is not None and done != total:
        raise _BrokenOffError(f"the connection broke off after {done} of {total} bytes")


def _check_size(unfinished: Unfinished, size: int) -> None:
    if size > LARGEST:
        unfinished.discard()
        raise TransferError(f"it gives more than {LARGEST / 2**30:.2g} GiB, the largest size that is accepted")


def _continues(answer: Any, note: dict[str, Any], start: int) -> int | None:
    """Bytes of the whole file if an answer continues the one that was begun; else None."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range") or "")
    if found is None or int(found[1]) != start or note.get("size") not in (None, int(found[2])):
        return None
    tag = answer.headers.get("ETag")
    return int(found[2]) if tag is None or note.get("etag") in (None, tag) else None


def _total(content_range: str | None) -> int | None:
    """Bytes of the whole file, as the answer says to whom asks for more than there is."""
    found = re.fullmatch(r"bytes \*/(\d+)", content_range or "")
    return None if found is None else int(found[1])


def _length(answer: Any) -> int | None:
    text = answer.headers.get("Content-Length") or ""
    return int(text) if text.isdecimal() else None


def _described(url: str, answer: Any, total: int | None) -> dict[str, Any]:
    names = {"etag": "ETag", "modified": "Last-Modified"}
    return {"url": url, "size": total} | {key: answer.headers.get(name) for key, name in names.items()}


def _validator(note: dict[str, Any]) -> str | None:
    """By what a server recognises the same file: a strong ETag, else a date; None: by nothing."""
    tag, modified = note.get("etag"), note.get("modified")
    if isinstance(tag, str) and tag.startswith('"'):
        return tag
    return modified if isinstance(modified, str) else None
