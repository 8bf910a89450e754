"""Imports jax_md without its rigid bodies and vesin without torch, which nobody here uses.

Rigid bodies are a hundred compilations, several seconds, and fix JAX's devices; without them the import computes
nothing. Torch, which vesin imports where it is installed, would be half of what a process takes to start.
"""

import sys
import types

sys.modules.setdefault("jax_md.rigid_body", types.ModuleType("jax_md.rigid_body"))

import jax_md  # noqa: E402, F401

if "torch" not in sys.modules:
    sys.modules["torch"] = None  # cannot be imported
    import vesin  # noqa: F401

    del sys.modules["torch"]
