"""Strict numerics, reproducible examples and compilation counting for every test."""

import atexit
import contextlib
import dataclasses
import gc
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jax
import matplotlib
import pytest
from jax._src import compiler

from bayes_mlff.core.numbers import usable_cores
from tests.support import light_imports, one_context, spared  # noqa: F401

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Many tests compile the same small functions: the processes of one run share what they compiled, and nothing is
    # kept for the next. JAX reads the environment when it is imported, child processes when they start.
    shared = {
        "jax_compilation_cache_dir": tempfile.mkdtemp(prefix="jax-"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_logging_level": "CRITICAL",  # or else XLA complains at every function that it finds there
    }
    for name, value in shared.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)
    atexit.register(shutil.rmtree, shared["jax_compilation_cache_dir"], ignore_errors=True)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
COMPUTING = {"physics", "statistical"}
"""Folders of tests that compute for about as long as XLA compiles, which optimises there without trying hard."""

_spared: dict[str, str] = {}
_get_compile_options = compiler.get_compile_options


def _compile_options(*args: Any, **kwargs: Any) -> Any:
    """As JAX has them, but for what XLA is spared in the test that runs."""
    options = _get_compile_options(*args, **kwargs)
    options.env_option_overrides = [*options.env_option_overrides, *_spared.items()]
    return options


compiler.get_compile_options = _compile_options

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of child processes
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1":
    _get_compile_options(1, 1)  # XLA reads its flags once; from here on they are those of child processes
    os.environ["XLA_FLAGS"] = f"{spared.FLAGS} {os.environ.get('XLA_FLAGS', '')}"


gc.freeze()
gc.set_threshold(20_000, 20, 20)  # Traced networks are many objects and few cycles: looking for these took 6 %.


def pytest_xdist_auto_num_workers() -> int | None:
    """One more than cores, since some tests wait: for disks, for processes that end, for limits of time."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else usable_cores() + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only test modules that import neither JAX nor subprocess")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What takes long is compilations and processes, and who wants them imports them: no list has to be kept."""
    if config.getoption("--quick") and collection_path.name.startswith("test_"):
        slow = re.search(r"^ *(import|from) (jax|subprocess)\b", collection_path.read_text(), re.MULTILINE)
        return slow is not None or None
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """XLA is spared what takes it longest, unless the marker `optimized` asks for everything as users have it.

    `JAX_DISABLE_MOST_OPTIMIZATIONS=0` asks for that in all tests.
    """
    spares = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and item.get_closest_marker("optimized") is None
    computes = item.path.parent.name in COMPUTING
    jax.config.update("jax_disable_most_optimizations", spares and not computes)
    _spared.clear()
    if spares:
        _spared.update(spared.OPTIONS | (spared.SOME if computes else {}))


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
