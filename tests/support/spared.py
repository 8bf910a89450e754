"""What XLA is spared in tests, most of which compile for longer than they compute."""

import os
from typing import Final

OPTIONS: Final = {"xla_cpu_use_fusion_emitters": "False", "xla_cpu_parallel_codegen_split_count": "1"}
"""The fusions take four fifths of what remains without most optimisations, and a third of what remains with some.
Parts of a function that XLA compiles side by side take a sixth more, and other tests use the other cores."""

SOME: Final = {"xla_backend_optimization_level": "1"}
"""For what computes about as long as it compiles: the code is as fast as at XLA's own level, in 70 % of the time."""

FLAGS: Final = " ".join(f"--{name}={value}" for name, value in OPTIONS.items())


def environment_to_compute() -> dict[str, str]:
    """What to add to the environment of a child process that computes for about as long as it compiles."""
    if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "1":
        return {}
    flags = " ".join(f"--{name}={value}" for name, value in SOME.items())
    return {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": f"{flags} {os.environ['XLA_FLAGS']}"}
