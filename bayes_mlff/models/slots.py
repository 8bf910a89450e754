"""Where edges belong: rows of slots, each of which is one edge of an atom."""

from typing import NamedTuple

import jax


class Slots(NamedTuple):
    """Where edges belong."""

    neighbors: jax.Array  # [r, k] atom at the other end of each edge
    receivers: jax.Array | None  # [r] ascending, atom of each row; None: row i belongs to atom i

    def of_receivers(self, x: jax.Array) -> jax.Array:
        """Values [n, ...] of the atom of every row: [r, 1, ...]."""
        return (x if self.receivers is None else x[self.receivers])[:, None]

    def summed(self, rows: jax.Array, atoms: int) -> jax.Array:
        """Sum rows [r, ...] of the same atom: [n, ...]."""
        if self.receivers is None:
            return rows
        return jax.ops.segment_sum(rows, self.receivers, num_segments=atoms, indices_are_sorted=True)
