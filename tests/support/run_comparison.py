"""Are two runs the same run? What differs between a run and one that was interrupted and continued."""

from pathlib import Path

import jax
import numpy as np

from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.ensemble import files, saved
from bayes_mlff.runs import checkpoint
from bayes_mlff.testing import faulty_engines

SAME_BYTES = ("thermo.csv", "trajectory.extxyz")
SAME_LABELS = ("dataset.extxyz", "rejected.extxyz", "validation.extxyz")


def differences(left: Path, right: Path, *, rtol: float = 0.0) -> list[str]:
    """What is not the same in two run directories; nothing if both hold the same run.

    Compared are thermo and trajectory, labels apart from the time that they took, and the newest checkpoint: chains,
    random numbers, dynamics, training set, calibration; and the ensembles that were written.

    Args:
      left: a run directory.
      right: another.
      rtol: relative difference of numbers that is accepted; 0 asks for equality to the last bit.
    """
    found = []
    for name in SAME_BYTES:
        a, b = (_content(path / name) for path in (left, right))
        if rtol == 0.0 and a != b:
            found.append(f"{name}: differs from byte {_first(a, b)} on ({len(a)} and {len(b)} bytes)")
    for name in SAME_LABELS:
        a, b = (_labels(path / name) for path in (left, right))
        if [r.step for r in a] != [r.step for r in b]:
            found.append(f"{name}: labels of steps {[r.step for r in a]} and {[r.step for r in b]}")
            continue
        found += [
            f"{name}: step {x.step} differs in {field}"
            for x, y in zip(a, b, strict=True)
            for field in LabelRecord._fields
            if field != "engine_seconds" and not _close(getattr(x, field), getattr(y, field), rtol)
        ]
    return [*found, *_checkpoint_differences(left, right, rtol), *_ensemble_differences(left, right, rtol)]


def _checkpoint_differences(left: Path, right: Path, rtol: float) -> list[str]:
    (a, state_a, _), (b, state_b, _) = (checkpoint.newest(path / "checkpoints") for path in (left, right))
    if a.keys() != b.keys():
        return [f"checkpoint: arrays {sorted(a.keys() ^ b.keys())} are in one only"]
    found = [f"checkpoint: array {name}" for name in a if not _close(a[name], b[name], rtol)]
    names = (state_a.keys() | state_b.keys()) - ({"sizes"} if rtol > 0.0 else set())
    for name in sorted(names):
        x, y = (jax.tree.leaves(state.get(name)) for state in (state_a, state_b))
        if len(x) != len(y) or not all(_close(i, j, rtol) for i, j in zip(x, y, strict=True)):
            found.append(f"checkpoint: {name} {state_a.get(name)} and {state_b.get(name)}")
    return found


def _ensemble_differences(left: Path, right: Path, rtol: float) -> list[str]:
    """Of the ensembles beside the newest checkpoints, and at the ends of the runs."""
    found = []
    kept = [files.kept(path / files.CHECKPOINTS) for path in (left, right)]
    for place, paths in (("newest checkpoint", kept), (files.NAME, [left / files.NAME, right / files.NAME])):
        a, b = (None if path is None or not path.is_file() else saved.load(path) for path in paths)
        if a is None or b is None:
            found += [f"ensemble, {place}: in one only"] if a is not b else []
            continue
        arrays = ("samples", "offset_ev", "compositions")
        found += [f"ensemble, {place}: {n}" for n in arrays if not _close(getattr(a, n), getattr(b, n), rtol)]
        if rtol == 0.0 and not (saved.same(a._replace(config_text=b.config_text), b) and a.provenance == b.provenance):
            found.append(f"ensemble, {place}: calibration or provenance")
    return found


def labels_paid_twice(folder: Path, run: Path) -> int:
    """Finished calculations of geometries that had been calculated before.

    Args:
      folder: of a `FaultyCalculator`.
      run: directory of a run whose labels it calculated.

    Raises:
      ValueError: if the run has a label that was never calculated.
    """
    finished = [call["geometry"] for call in faulty_engines.calls(folder) if call["done"]]
    known = {faulty_engines.fingerprint(r.structure.positions) for name in SAME_LABELS for r in _labels(run / name)}
    if not known <= set(finished):
        raise ValueError(f"{run}: it has labels that {folder / faulty_engines.CALLS} does not know")
    return len(finished) - len(set(finished))


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _labels(path: Path) -> list[LabelRecord]:
    return dataset.read(path, repeats=True) if path.exists() else []


def _first(a: bytes, b: bytes) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _close(a: object, b: object, rtol: float) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_close(x, y, rtol) for x, y in zip(a, b, strict=True))
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if rtol == 0.0 or x.dtype.kind != "f":
        return x.tobytes() == y.tobytes() if x.dtype.kind in "fiub" else bool(np.array_equal(x, y))
    largest = float(np.max(np.abs(y), initial=0.0, where=np.isfinite(y)))
    return bool(np.allclose(x, y, rtol=rtol, atol=rtol * largest, equal_nan=True))
