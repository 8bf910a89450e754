"""JAX lowers all functions of a process in one MLIR context.

It makes a new one for every function, which takes longer than lowering a small one. What is lowered is the same: a
context holds the dialects, and each type and attribute once.
"""

import functools

from jax._src.interpreters import mlir

mlir.make_ir_context = functools.cache(mlir.make_ir_context)
