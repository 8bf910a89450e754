"""Strict numerics, reproducible examples and compilation counting for every test."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator

import hypothesis
import jax
import jax_md  # noqa: F401 (its import computes, which the strict settings below would refuse)
import matplotlib
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# What tests compile, the processes that they start included, is not kept in the user's folder.
jax.config.update("jax_enable_compilation_cache", False)
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
if "JAX_PLATFORMS" not in os.environ:
    # Several test processes on one accelerator would each try to reserve most of its memory.
    jax.config.update("jax_platforms", "cpu")

matplotlib.use("Agg")

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

BACKEND_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass
class CompilationCount:
    """Backend compilations seen while the context that made it was open."""

    value: int = 0


CountCompilations = Callable[[], contextlib.AbstractContextManager[CompilationCount]]


@contextlib.contextmanager
def _counting() -> Iterator[CompilationCount]:
    count = CompilationCount()

    def listen(event: str, duration: float, **_: str | int) -> None:
        count.value += event == BACKEND_COMPILE_EVENT

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield count
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def count_compilations() -> CountCompilations:
    """Context manager whose `value` is the number of XLA compilations inside it.

    Operations outside `jax.jit` compile too, once per shape and dtype: make the inputs before entering.

        with count_compilations() as count:
            step(state)
        assert count.value == 0
    """
    return _counting
