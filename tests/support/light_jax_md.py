"""Imports jax_md without its rigid bodies, which nobody here uses.

They are a hundred compilations, several seconds, and fix JAX's devices; without them the import computes nothing.
"""

import sys
import types

sys.modules.setdefault("jax_md.rigid_body", types.ModuleType("jax_md.rigid_body"))

import jax_md  # noqa: E402, F401
