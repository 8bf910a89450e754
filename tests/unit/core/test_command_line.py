"""What is settled for JAX before a command works."""

import jax
import pytest

from bayes_mlff.core import command_line


@pytest.mark.parametrize(
    ("backend", "asked", "expected"),
    [("gpu", None, "highest"), ("gpu", "tensorfloat32", None), ("cpu", None, None)],
)
def test_accelerators_multiply_in_full_unless_told_otherwise(monkeypatch, backend, asked, expected):
    before = jax.config.jax_default_matmul_precision
    monkeypatch.delenv("JAX_DEFAULT_MATMUL_PRECISION", raising=False)
    if asked is not None:
        monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", asked)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    try:
        jax.config.update("jax_default_matmul_precision", None)
        command_line.multiply_in_full()
        assert jax.config.jax_default_matmul_precision == expected
    finally:
        jax.config.update("jax_default_matmul_precision", before)
