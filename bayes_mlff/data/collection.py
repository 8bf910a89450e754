"""Many labelled frames of several molecules, drawn as disjoint graphs of a fixed composition."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.data.neighbors import species_index


class Member(NamedTuple):
    """Frames of one molecule on the device."""

    positions: jax.Array  # [f, n, 3] Å
    forces: jax.Array  # [f, n, 3] eV/Å
    energy: jax.Array  # [f] eV, relative to the isolated atoms
    neighbors: jax.Array  # [f, r, k] int16, sender within the molecule; -1 on padding
    receivers: jax.Array  # [f, r] int16, ascending, the atom that each row of k slots belongs to


class Draw(NamedTuple):
    """m frames of every member as one disjoint graph of N atoms; atoms of a frame are contiguous."""

    positions: jax.Array  # [N, 3] Å
    forces: jax.Array  # [N, 3] eV/Å
    energy: jax.Array  # [g] eV
    neighbors: jax.Array  # [R, k] int32
    edge_mask: jax.Array  # [R, k] bool
    receivers: jax.Array  # [R] int32, ascending


class Collection(NamedTuple):
    """Members and the layout of a draw of one frame of each."""

    members: tuple[Member, ...]
    species: tuple[np.ndarray, ...]  # [n] of each member


def make_member(
    positions: np.ndarray, forces: np.ndarray, energy: np.ndarray, *, r_max: float, capacity: int, slots: int = 8
) -> Member:
    """Find the neighbours of every frame and move everything to the device in float32.

    Args:
      positions: [f, n, 3] Å.
      forces: [f, n, 3] eV/Å.
      energy: [f] eV, already without the energies of isolated atoms (float64).
      r_max: cutoff, Å.
      capacity: largest number of neighbours of an atom; frames that need more are refused.
      slots: k, neighbour slots in a row; an atom takes as many rows as it needs in each frame.

    Raises:
      ValueError: if an atom has more neighbours than the capacity.
    """
    close = np.zeros((*positions.shape[:2], positions.shape[1]), bool)
    for f, r in enumerate(positions):
        close[f] = np.sum((r[:, None] - r[None]) ** 2, axis=-1) < r_max**2
    close &= ~np.eye(positions.shape[1], dtype=bool)
    most = int(close.sum(axis=-1).max())
    if most > capacity:
        raise ValueError(f"an atom has {most} neighbours within {r_max} Å; allowed: up to {capacity}")
    neighbors, receivers = _rows(close, slots)
    x, f, e = (jnp.asarray(a, jnp.float32) for a in (positions, forces, energy))
    return Member(x, f, e, jnp.asarray(neighbors), jnp.asarray(receivers))


def _rows(close: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours [f, r, slots] and receivers [f, r] from close [f, n, n]; r is what the fullest frame needs."""
    frames, n, _ = close.shape
    count = -(-close.sum(axis=-1) // slots)
    first = np.cumsum(count, axis=-1) - count
    rows = max(1, int(count.sum(axis=-1).max()))
    f, receiver, sender = np.nonzero(close)
    rank = (np.cumsum(close, axis=-1, dtype=np.int16) - 1)[f, receiver, sender]
    row = first[f, receiver] + rank // slots
    neighbors = np.full((frames, rows, slots), -1, np.int16)
    neighbors[f, row, rank % slots] = sender
    receivers = np.full((frames, rows), n - 1, np.int16)
    receivers[f, row] = receiver
    return neighbors, receivers


def draw(collection: Collection, indices: tuple[jax.Array, ...]) -> Draw:
    """Gather frames `indices[i] [m]` of every member i into one disjoint graph."""
    parts, offset = [], 0
    for member, index in zip(collection.members, indices, strict=True):
        m, n = index.shape[0], member.positions.shape[1]
        local = member.neighbors[index].astype(jnp.int32)
        shift = offset + jnp.arange(m, dtype=jnp.int32)[:, None] * n
        mask = local >= 0
        senders = jnp.where(mask, local + shift[:, :, None], 0)
        parts.append(
            Draw(
                member.positions[index].reshape(m * n, 3),
                member.forces[index].reshape(m * n, 3),
                member.energy[index],
                senders.reshape(-1, local.shape[-1]),
                mask.reshape(-1, local.shape[-1]),
                (member.receivers[index].astype(jnp.int32) + shift).reshape(-1),
            )
        )
        offset += m * n
    return Draw(*(jnp.concatenate(field) for field in zip(*parts, strict=True)))


def layout(collection: Collection, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Species [N] and frame index [N] of the atoms in a draw of m frames of each member."""
    species, frame, count = [], [], 0
    for numbers in collection.species:
        for _ in range(m):
            species.append(numbers)
            frame.append(np.full(len(numbers), count))
            count += 1
    return np.concatenate(species).astype(np.int32), np.concatenate(frame).astype(np.int32)


def isolated_energies(numbers: list[np.ndarray], mean_energies: list[float], elements: tuple[int, ...]) -> np.ndarray:
    """Least-squares energy of each element [elements], eV, from the mean energies of several molecules."""
    counts = np.array([np.bincount(species_index(z, elements), minlength=len(elements)) for z in numbers], float)
    return np.linalg.lstsq(counts, np.asarray(mean_energies), rcond=None)[0]
