"""Trajectories as arrays, from run directories of this package and from files that ASE reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import ase.io
import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError, DataError, RunDirectoryError, brief, shown
from bayes_mlff.data import label_notes
from bayes_mlff.data.structure import Structure, check
from bayes_mlff.runs import compact_frames, frame_index, trajectory
from bayes_mlff.runs.trajectory import Trajectory

_BLOCK: Final = 4000
"""Number of frames of a run that are parsed together."""

_UNASKED: Final = ("initial", "audit")
"""Reasons of labels that no trigger asked for."""


class Replica(NamedTuple):
    """One trajectory: frames with the same atoms in the same order, evenly spaced in time if times are known."""

    name: str
    numbers: np.ndarray  # [n] atomic numbers
    pbc: np.ndarray  # [3] bool
    masses: np.ndarray  # [n] amu
    positions: np.ndarray  # [t, n, 3] Å, wrapped or not
    cells: np.ndarray  # [t, 3, 3] Å, rows
    time_fs: np.ndarray | None = None  # [t]
    velocities: np.ndarray | None = None  # [t, n, 3] Å/fs
    label_fs: np.ndarray | None = None  # [l] times of the labels that a trigger asked for; None if there are no labels
    unasked: int = 0  # further labels: initial ones and audits

    @property
    def bulk(self) -> bool:
        """Whether it is periodic in all directions."""
        return bool(self.pbc.all())

    def structure(self) -> Structure:
        """The first frame."""
        return Structure(self.numbers, self.positions[0], self.cells[0], self.pbc)

    def times(self) -> np.ndarray:
        """Times [t], fs.

        Raises:
          DataError: if they are unknown.
        """
        if self.time_fs is None:
            raise DataError(f"{self.name}: no times in the file; allowed: frames with time_fs, or --interval-fs")
        return self.time_fs

    def interval_fs(self) -> float:
        """Time between frames, fs."""
        time = self.times()
        return float(time[-1] - time[0]) / (len(time) - 1)

    def of(self, symbol: str, key: str) -> np.ndarray:
        """Indices of the atoms of an element.

        Raises:
          ConfigError: naming `key`, if it is not there.
        """
        found = np.flatnonzero(self.numbers == atomic_numbers.get(symbol, 0))
        if not found.size:
            raise ConfigError(key, symbol, f"an element of {self.name}: {', '.join(self.elements())}")
        return found

    def elements(self) -> list[str]:
        """Chemical symbols, by atomic number."""
        return [chemical_symbols[z] for z in np.unique(self.numbers)]

    def pairs(self) -> list[tuple[str, str]]:
        """All pairs of elements, each once, the rarer and then the heavier one first."""
        count = {z: int(np.sum(self.numbers == z)) for z in np.unique(self.numbers).tolist()}
        ordered = [chemical_symbols[z] for z in sorted(count, key=lambda z: (count[z], -z))]
        return [(a, b) for i, a in enumerate(ordered) for b in ordered[i:]]

    def symbols(self, atoms: Sequence[int]) -> list[str]:
        """Chemical symbols of some atoms."""
        return [chemical_symbols[self.numbers[i]] for i in atoms]

    def since(self, skip_fs: float) -> "Replica":
        """Without the frames and labels of the first `skip_fs`.

        Raises:
          ConfigError: if fewer than two frames remain.
        """
        if skip_fs <= 0.0:
            return self
        time = self.times()
        kept = time >= time[0] + skip_fs * (1.0 - 1e-9)
        if kept.sum() < 2:
            raise ConfigError(
                "--skip-ps", skip_fs / 1e3, f"less than the {(time[-1] - time[0]) / 1e3:g} ps of {self.name}"
            )
        return self._replace(
            positions=self.positions[kept],
            cells=self.cells[kept],
            time_fs=time[kept],
            velocities=None if self.velocities is None else self.velocities[kept],
            label_fs=None if self.label_fs is None else self.label_fs[self.label_fs >= time[kept][0]],
        )


def read(path: Path, interval_fs: float | None = None) -> Replica:
    """Read one trajectory.

    Args:
      path: directory of a run, or a file that ASE reads.
      interval_fs: time between frames, for files that do not say it.

    Raises:
      DataError, RunDirectoryError: if it cannot be read, has one frame, or its frames are not of the same atoms or
        not evenly spaced in time.
    """
    found = _run(path) if path.is_dir() else _file(path)
    frames = len(found.positions)
    if frames < 2:
        raise DataError(f"{path}: got {frames} frame; allowed: a trajectory of at least 2 frames")
    if interval_fs is not None:
        if found.time_fs is not None:
            raise ConfigError("--interval-fs", interval_fs, f"nothing: {path} states the times of its frames")
        found = found._replace(time_fs=interval_fs * np.arange(frames))
    moved = [0, *np.flatnonzero(np.any(found.cells != found.cells[0], axis=(1, 2))).tolist()]
    for i in moved:
        try:
            check(Structure(found.numbers, found.positions[i], found.cells[i], found.pbc))
        except DataError as error:
            raise DataError(f"{path}: frame {i}: {error}") from error
    if found.time_fs is not None:
        steps = np.diff(found.time_fs)
        if steps.min() <= 0.0 or np.ptp(steps) > 1e-3 * steps.mean():
            least, most = f"{steps.min():g}", f"{steps.max():g}"
            raise DataError(f"{path}: times between frames are {least} to {most} fs; allowed: even and rising times")
    return found


def _run(path: Path) -> Replica:
    """The trajectory of a run, with the times of its labels."""
    source = path / "trajectory.extxyz"
    if not source.is_file() and (path / compact_frames.NAME).is_file():
        return _of_frames(path, [compact_frames.read(path / compact_frames.NAME)])
    if not source.is_file():
        raise RunDirectoryError(f"{path}: no trajectory.extxyz there; allowed: a run that has stored frames")
    index = trajectory.frames(source)
    parts = [
        trajectory.read_some(source, index, np.arange(begin, min(begin + _BLOCK, index.count)))
        for begin in range(0, index.count, _BLOCK)
    ]
    first = parts[0]
    if any(not np.array_equal(part.numbers, first.numbers) for part in parts):
        raise RunDirectoryError(f"{source}: the atoms change; allowed: frames of the same atoms")
    found = _of_frames(path, parts)
    if not (path / "dataset.extxyz").is_file():
        return found
    notes = [note for note in label_notes.read(path / "dataset.extxyz") if note.reason != label_notes.GIVEN]
    asked = [note.time_fs for note in notes if note.reason not in _UNASKED]
    return found._replace(label_fs=np.array(asked, np.float64), unasked=len(notes) - len(asked))


def _of_frames(path: Path, parts: list[Trajectory]) -> Replica:
    """Frames in one or several parts."""
    first = parts[0]
    masses = atomic_masses[first.numbers] if first.masses is None else first.masses
    momenta = [part.momenta for part in parts if part.momenta is not None]
    velocities = None
    if len(momenta) == len(parts):
        velocities = np.concatenate(momenta) / masses[:, None] * units.FS
    return Replica(
        str(path),
        first.numbers,
        first.pbc,
        masses,
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.cells for part in parts]),
        np.concatenate([part.time_fs for part in parts]),
        velocities,
    )


def _file(path: Path) -> Replica:
    """All frames of a file that ASE reads."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; allowed: the directory of a run, or a trajectory that ASE reads")
    try:
        frames: list[Any] = list(ase.io.iread(str(path), ":", do_not_split_by_at_sign=True))
    except Exception as error:  # ASE's readers may raise any exception
        said = brief(f"{type(error).__name__}: {error}")
        raise DataError(
            f"{path}: got {said}; allowed: a trajectory that ASE reads, or the directory of a run"
        ) from error
    if not frames:
        raise DataError(f"{path}: got no frames; allowed: a trajectory of at least 2 frames")
    first = frames[0]
    for i, atoms in enumerate(frames):
        if not np.array_equal(atoms.numbers, first.numbers) or not np.array_equal(atoms.pbc, first.pbc):
            raise DataError(
                f"{path}: frame {i} has other atoms or pbc; allowed: frames of the same atoms, in one order"
            )
    times = [atoms.info.get("time_fs") for atoms in frames]
    if any(isinstance(t, bool) or not isinstance(t, int | float | np.number) for t in times if t is not None):
        raise DataError(f"{path}: got time_fs {shown(times[0])}; allowed: a number in each frame")
    velocities = None
    if all(atoms.has("momenta") for atoms in frames):
        velocities = np.array([atoms.get_velocities() for atoms in frames]) * units.FS
    found = Replica(
        str(path),
        np.array(first.numbers, int),
        np.array(first.pbc, bool),
        np.array(first.get_masses(), np.float64),
        np.array([atoms.positions for atoms in frames], np.float64),
        np.array([atoms.cell.array for atoms in frames], np.float64),
        None if any(t is None for t in times) else np.array(times, np.float64),
        velocities,
    )
    arrays = (found.positions, found.cells, found.time_fs, velocities)
    if not all(np.isfinite(x).all() for x in arrays if x is not None):
        raise DataError(f"{path}: a number is not finite; allowed: finite numbers")
    return found


def check_together(replicas: list[Replica]) -> None:
    """Refuse trajectories of different systems.

    Raises:
      DataError: naming the two files, if atoms or periodicity differ.
    """
    first = replicas[0]
    for other in replicas[1:]:
        if not np.array_equal(other.numbers, first.numbers) or not np.array_equal(other.pbc, first.pbc):
            raise DataError(f"{other.name}: other atoms or pbc than {first.name}; allowed: replicas of one system")


def check_equal_lengths(replicas: list[Replica]) -> None:
    """Refuse replicas with different numbers of frames, or times between them.

    Raises:
      DataError: naming the two files.
    """
    first = replicas[0]
    for other in replicas[1:]:
        got, wanted = len(other.positions), len(first.positions)
        if got != wanted:
            raise DataError(f"{other.name}: {got} frames, {first.name}: {wanted}; allowed: replicas of one length")
        if abs(other.interval_fs() - first.interval_fs()) > 1e-3 * first.interval_fs():
            spaced = f"{other.interval_fs():g} fs between frames, {first.name}: {first.interval_fs():g}"
            raise DataError(f"{other.name}: {spaced}; allowed: replicas with one interval")


def evenly(replica: Replica, most: int) -> Replica:
    """At most so many frames, evenly spaced, without their times and velocities."""
    chosen = frame_index.evenly(len(replica.positions), most)
    return replica._replace(
        positions=replica.positions[chosen], cells=replica.cells[chosen], time_fs=None, velocities=None
    )
