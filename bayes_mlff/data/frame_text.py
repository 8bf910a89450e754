"""Extended-XYZ files of this package cut into frames, without reading their numbers."""

from pathlib import Path
from typing import NamedTuple

from bayes_mlff.core.errors import DataError


class Scan(NamedTuple):
    """A file cut into frames."""

    frames: list[str]
    whole_bytes: int  # end of the last complete frame
    torn_bytes: int  # rest after it


def scan(path: Path) -> Scan:
    """Cut a file into frames without reading their numbers."""
    data = path.read_bytes()
    frames: list[str] = []
    start = 0
    while start < len(data):
        end = _frame_end(data, start, f"{path}: frame {len(frames)}")
        if end is None:
            torn = data[start:]
            # An interrupted write leaves the beginning of one frame, perhaps with zeros filled in by the file system.
            if torn.count(b"Properties=") > 1:
                raise DataError(f"{path}: frame {len(frames)} does not end where its number of atoms says")
            return Scan(frames, start, len(torn))
        try:
            frames.append(data[start:end].decode())
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: frame {len(frames)} is not text: {error}") from error
        start = end
    return Scan(frames, start, 0)


def _frame_end(data: bytes, start: int, where: str) -> int | None:
    """Where the frame that begins at `start` ends, or None if the data end before."""
    end = data.find(b"\n", start) + 1
    count = data[start : end - 1].strip()
    if end == 0 or (not count.isdigit() and data.endswith(b"\0")):
        return None
    if not count.isdigit() or len(count) > 9:
        raise DataError(f"{where}, at byte {start}: got {count[:40]!r}; allowed: a number of atoms")
    for _ in range(int(count) + 1):
        end = data.find(b"\n", end) + 1
        if end == 0:
            return None
    return None if data.endswith(b"\0") and b"\0" in data[start:end] else end


def refuse_torn(path: Path, found: Scan) -> None:
    """Raise a DataError if the last frame is incomplete."""
    if found.torn_bytes:
        raise DataError(
            f"{path}: frame {len(found.frames)} is incomplete after {found.torn_bytes} bytes, as after a crash; "
            "recover the dataset first"
        )
