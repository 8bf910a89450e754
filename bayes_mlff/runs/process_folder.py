"""The folder in which each of several processes keeps the files of a run."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from bayes_mlff.data.label_notes import COMPARED, REJECTED
from bayes_mlff.parallel.hosts import first, shared
from bayes_mlff.runs import start


@contextlib.contextmanager
def run_directory(path: Path) -> Iterator[Path]:
    """Folder for the run's files: `path` in the first process, else a temporary copy of what a resumed run needs."""
    files = shared(lambda: _files(path)) if jax.process_count() > 1 else {}
    if first():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="bayes_mlff") as folder:
        for name, content in files.items():
            copy = Path(folder) / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.touch()
            if isinstance(content, bytes):
                copy.write_bytes(content)
            else:
                os.truncate(copy, content)
        yield Path(folder)


def _files(path: Path) -> dict[str, bytes | int]:
    """Contents of the files of a run directory, if it exists; for growing files only their size, bytes."""
    kept = [*path.glob("config*.yaml"), *path.glob("checkpoints/*"), *path.glob(f"{start.FOLDER}/**/*")]
    kept += (path / name for name in ("dataset.extxyz", REJECTED, COMPARED))
    growing = [path / "thermo.csv", path / "trajectory.extxyz"]
    contents = {str(p.relative_to(path)): p.read_bytes() for p in kept if p.is_file()}
    return contents | {p.name: p.stat().st_size for p in growing if p.is_file()}
