"""What JAX is told before it works: devices, where compiled functions are kept, precision of products."""

import logging
import os

import jax

from bayes_mlff.core.numbers import largest_divisor, usable_cores
from bayes_mlff.core.paths import cache_folder


def one_device_per_core(chains: int) -> None:
    """Make as many JAX devices on the CPU as cores can be used for the chains, which then run side by side."""
    jax.config.update("jax_num_cpu_devices", largest_divisor(chains, usable_cores()))


def start_jax(chains: int, *, running: bool = False) -> None:
    """Settle all of it.

    Args:
      chains: that shall run side by side.
      running: JAX may be at work already, as in a notebook; its devices then stay as they are.
    """
    try:
        one_device_per_core(chains)
    except RuntimeError:
        if not running:
            raise
    keep_compilations()
    multiply_in_full()


def multiply_in_full() -> None:
    """Have accelerators multiply float32 numbers as such, unless `JAX_DEFAULT_MATMUL_PRECISION` says otherwise.

    Left alone, JAX rounds the factors to ten bits there (TF32). On an H100 the shipped models are then off by up to
    1.4e-3 of the largest force or stress, and by 1e-5 in full. Processors always multiply in full.
    """
    if jax.default_backend() != "cpu" and "JAX_DEFAULT_MATMUL_PRECISION" not in os.environ:
        jax.config.update("jax_default_matmul_precision", "highest")


def keep_compilations() -> None:
    """Keep compiled functions in `compiled/` of the cache folder: the same run, started again, compiles none of them.

    See ADR 0013. JAX's own settings come first: `JAX_COMPILATION_CACHE_DIR` names another folder and
    `JAX_ENABLE_COMPILATION_CACHE=false` switches this off. Starts JAX: the number of devices is fixed from here on.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if jax.default_backend() == "cpu" and "JAX_LOGGING_LEVEL" not in os.environ:
        # At every load XLA takes two of its own tuning flags for missing features of the processor, and says so.
        jax.config.update("jax_logging_level", "CRITICAL")
        for name in ("jax", "jaxlib"):
            logging.getLogger(name).setLevel(logging.WARNING)
