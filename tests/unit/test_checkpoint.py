"""Checkpoints survive exactly, and a damaged one is passed over with a remark."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.otf import checkpoint


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
