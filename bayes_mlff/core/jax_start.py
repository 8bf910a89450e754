"""Settings of JAX before its first use: devices, folder of compiled functions, precision of matrix products."""

import logging
import os

import jax

from bayes_mlff.core.numbers import largest_divisor, usable_cores
from bayes_mlff.core.paths import cache_folder


def one_device_per_core(chains: int) -> None:
    """Make one JAX CPU device per usable core, in a number that divides that of the chains, to run them in parallel."""
    jax.config.update("jax_num_cpu_devices", largest_divisor(chains, usable_cores()))


def start_jax(chains: int, *, running: bool = False) -> None:
    """Apply all settings of this module.

    Args:
      chains: number of chains that shall run in parallel.
      running: allow that JAX has been used already, as in a notebook; its devices then stay as they are.
    """
    try:
        one_device_per_core(chains)
    except RuntimeError:
        if not running:
            raise
    keep_compilations()
    multiply_in_full()


def multiply_in_full() -> None:
    """Use full float32 precision for matrix products on accelerators, unless `JAX_DEFAULT_MATMUL_PRECISION` is set.

    By default JAX rounds the factors to ten bits there (TF32). On an H100 this gives the shipped models errors of up to
    1.4e-3 of the largest force or stress, against 1e-5 in full precision. CPUs always use full precision.
    """
    if jax.default_backend() != "cpu" and "JAX_DEFAULT_MATMUL_PRECISION" not in os.environ:
        jax.config.update("jax_default_matmul_precision", "highest")


def keep_compilations() -> None:
    """Store compiled functions in `compiled/` of the cache folder: the same run, started again, need not compile.

    See ADR 0013. JAX's own settings take precedence: `JAX_COMPILATION_CACHE_DIR` names another folder and
    `JAX_ENABLE_COMPILATION_CACHE=false` switches this off. This starts JAX and so fixes the number of devices.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if jax.default_backend() == "cpu" and "JAX_LOGGING_LEVEL" not in os.environ:
        # XLA takes two of its own tuning flags for missing CPU features and would warn at every load.
        jax.config.update("jax_logging_level", "CRITICAL")
        for name in ("jax", "jaxlib"):
            logging.getLogger(name).setLevel(logging.WARNING)
