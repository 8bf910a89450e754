"""Tests of operations that some releases of JAX compiled wrongly; they use whole numbers, so that results are exact.

This file needs only JAX and NumPy. Run as a program it prints one line for each failure. It is a separate program
because some releases crash or hang here.
"""

import jax
import jax.numpy as jnp
import numpy as np


def failures() -> list[str]:
    """Names of the failed operations; factors fit into ten bits, so that products are exact on any device."""
    checks = (_matrix_vector(), _matrix_vector_gradient(), *map(_reduction, range(6, 9)))
    return [what for what, right in checks if not right]


def _matrix_vector() -> tuple[str, bool]:
    """Many products of a matrix and a vector followed by a sum (jax-ml/jax#39103)."""
    rows = np.stack([np.arange(40_000) % m for m in (7, 11, 13)], axis=1)
    matrix = np.array([[1, 2, 0], [0, 3, 1], [2, 0, 1]])
    made = jax.jit(lambda m, x: jax.vmap(lambda row: jnp.sum((m @ row) ** 2))(x))
    got = made(jnp.asarray(matrix, jnp.float32), jnp.asarray(rows, jnp.float32))
    return "matrix-vector products", np.array_equal(got, np.sum((rows @ matrix.T) ** 2, axis=1))


def _matrix_vector_gradient() -> tuple[str, bool]:
    """The gradient of a sum of such products, one of them with zeros (openxla/xla#13054)."""
    weights, rows = np.array([1, 2, 3]), np.stack([np.arange(4096) % m for m in (2, 3, 5)], axis=1)

    def total(x, w, ys):
        def one(y):
            difference = y - x
            return jnp.dot(difference, w) + jnp.dot(jnp.dot(difference, jnp.zeros((3, 3), x.dtype)), difference)

        return jnp.sum(jax.vmap(one)(ys))

    values = (jnp.asarray(value, jnp.float32) for value in (np.ones(3), weights, rows))
    return "gradients of matrix-vector products", np.array_equal(jax.jit(jax.grad(total))(*values), -4096 * weights)


def _reduction(rank: int) -> tuple[str, bool]:
    """The sum of a product of arrays of high rank, with an axis of length one (jax-ml/jax#39257, #40412)."""
    shape = (3, 1, 2, 2, 4, 4, 4, 2)[:rank]
    left = np.arange(np.prod(shape)).reshape(shape) % 17
    right = np.arange(np.prod(shape)).reshape(shape) % 23
    made = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))
    got = made(jnp.asarray(left, jnp.float32), jnp.asarray(right, jnp.float32))
    return f"sums of products of rank {rank}", np.array_equal(got, np.sum(left * right, axis=3))


if __name__ == "__main__":
    print("\n".join(failures()))  # noqa: T201 (its output is what the parent reads)
