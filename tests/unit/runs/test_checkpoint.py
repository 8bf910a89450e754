"""Checkpoints survive exactly, and a damaged one is passed over with a remark."""

import errno
import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.runs import checkpoint
from tests.support.faults import Fault, accident


class State(NamedTuple):
    x: jax.Array
    key: jax.Array
    flags: jax.Array
    raw: np.ndarray
    count: jax.Array


def make(seed: int) -> State:
    key = jax.random.key(seed)
    return State(
        jax.random.normal(key, (3, 2)),
        key,
        jnp.array([True, False]),
        np.frombuffer(bytes([seed, 255]), np.uint8),
        jnp.asarray(seed, jnp.int32),
    )


def test_state_and_floats_come_back_to_the_last_bit(tmp_path):
    state = make(1)
    checkpoint.write(tmp_path, 7, state, {"value": 0.1 + 0.2})
    arrays, metadata, remarks = checkpoint.newest(tmp_path)
    restored = checkpoint.restore(make(2), arrays)
    assert not remarks
    assert metadata["value"] == 0.1 + 0.2
    assert metadata["step"] == 7
    np.testing.assert_array_equal(restored.x, state.x)
    np.testing.assert_array_equal(jax.random.key_data(restored.key), jax.random.key_data(state.key))
    np.testing.assert_array_equal(restored.raw, state.raw)
    assert restored.flags.dtype == bool
    assert restored.count.shape == ()


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_checkpoint_falls_back_and_says_so(tmp_path, damage):
    for step in (1, 2):
        checkpoint.write(tmp_path, step, make(step), {})
    path = tmp_path / "000000002.ckpt"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"flip": data, "truncate": data[:-5], "empty": b""}[damage])
    arrays, metadata, remarks = checkpoint.newest(tmp_path)
    assert metadata["step"] == 1
    assert len(remarks) == 1
    assert "000000002" in remarks[0]
    np.testing.assert_array_equal(arrays[".x"], make(1).x)


def test_two_are_kept(tmp_path):
    for step in range(4):
        checkpoint.write(tmp_path, step, make(0), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000002.ckpt", "000000003.ckpt"]


def test_no_checkpoint_and_foreign_arrays_are_named_errors(tmp_path):
    with pytest.raises(RunDirectoryError, match="no intact checkpoint"):
        checkpoint.newest(tmp_path)
    with pytest.raises(RunDirectoryError, match="arrays do not match"):
        checkpoint.restore(make(0), {".y": np.zeros(1)})


def test_checkpoints_go_by_their_step_and_other_files_are_none(tmp_path):
    for step in (999_999_998, 999_999_999, 1_000_000_000):
        checkpoint.write(tmp_path, step, make(1), {})
    assert sorted(p.name for p in tmp_path.glob("*.ckpt")) == ["1000000000.ckpt", "999999999.ckpt"]
    (tmp_path / "old copy.ckpt").write_bytes(b"")
    _, metadata, remarks = checkpoint.newest(tmp_path)
    assert metadata["step"] == 1_000_000_000 and not remarks


@pytest.mark.parametrize(
    "point", ["checkpoint_not_begun", "checkpoint_half_written", "checkpoint_written", "checkpoint_dropped"]
)
def test_a_full_disk_costs_no_checkpoint(tmp_path, point):
    for step in (1, 2):
        checkpoint.write(tmp_path, step, make(step), {})
    error = errno.EROFS if point in ("checkpoint_not_begun", "checkpoint_dropped") else errno.ENOSPC
    with accident(Fault(point, 1, error), tmp_path):
        if point == "checkpoint_dropped":
            checkpoint.write(tmp_path, 3, make(3), {})
        else:
            with pytest.raises(RunDirectoryError, match=r"000000003\.ckpt: cannot be written .*are intact"):
                checkpoint.write(tmp_path, 3, make(3), {})
    assert not list(tmp_path.glob("*.tmp"))
    arrays, metadata, remarks = checkpoint.newest(tmp_path)
    assert metadata["step"] == (3 if point == "checkpoint_dropped" else 2) and not remarks
    np.testing.assert_array_equal(arrays[".x"], make(metadata["step"]).x)


def test_what_a_kill_left_behind_is_cleared_away(tmp_path):
    (tmp_path / "000000001.ckpt.tmp").write_bytes(b"half")
    checkpoint.write(tmp_path, 2, make(0), {})
    assert [p.name for p in tmp_path.iterdir()] == ["000000002.ckpt"]


@pytest.mark.parametrize("state", ["nothing", "[]", '{"step": 1}', '{"format": "1"}', '{"format": true}'])
def test_a_file_with_a_right_checksum_that_is_no_checkpoint_is_passed_over(tmp_path, state):
    checkpoint.write(tmp_path, 1, make(1), {})
    body = save({"x": np.zeros(1)}, metadata={"state": state})
    (tmp_path / "000000002.ckpt").write_bytes(hashlib.sha256(body).digest() + body)
    _, metadata, remarks = checkpoint.newest(tmp_path)
    assert metadata["step"] == 1 and "000000002.ckpt: unreadable" in remarks[0]


def test_a_checkpoint_that_cannot_be_read_is_passed_over(tmp_path):
    checkpoint.write(tmp_path, 1, make(1), {})
    (tmp_path / "000000002.ckpt").mkdir()
    _, metadata, remarks = checkpoint.newest(tmp_path)
    assert metadata["step"] == 1 and "Is a directory" in remarks[0]
