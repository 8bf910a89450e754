"""Large sets of labelled frames of several compositions; minibatches are disjoint graphs of a fixed size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.errors import DataError
from bayes_mlff.data.neighbors import pairs, species_index
from bayes_mlff.data.structure import Structure


class Member(NamedTuple):
    """Frames of one composition on the device; the last three fields are None for molecules."""

    positions: jax.Array  # [f, n, 3] Å
    forces: jax.Array  # [f, n, 3] eV/Å
    energy: jax.Array  # [f] eV, relative to the isolated atoms
    neighbors: jax.Array  # [f, r, k] int16, sender within the frame; -1 on padding
    receivers: jax.Array  # [f, r] int16, ascending, the atom that each row of k slots belongs to
    cell: jax.Array | None = None  # [f, 3, 3] Å, rows are vectors
    shifts: jax.Array | None = None  # [f, r, k, 3] int8, lattice translation of the neighbour
    stress: jax.Array | None = None  # [f, 3, 3] eV/Å³, tension positive


class Draw(NamedTuple):
    """m frames of every member as one disjoint graph of N atoms and g frames; the atoms of a frame are contiguous."""

    positions: jax.Array  # [N, 3] Å
    forces: jax.Array  # [N, 3] eV/Å
    energy: jax.Array  # [g] eV
    neighbors: jax.Array  # [R, k] int32
    edge_mask: jax.Array  # [R, k] bool
    receivers: jax.Array  # [R] int32, ascending
    offsets: jax.Array | None  # [R, k, 3] Å, lattice translation of the neighbour
    volume: jax.Array | None  # [g] Å³
    stress: jax.Array | None  # [g, 3, 3] eV/Å³, tension positive


class Collection(NamedTuple):
    """Members (either all periodic or none) and their elements."""

    members: tuple[Member, ...]
    species: tuple[np.ndarray, ...]  # [n] of each member


def make_member(
    positions: np.ndarray,
    forces: np.ndarray,
    energy: np.ndarray,
    *,
    r_max: float,
    capacity: int,
    slots: int = 8,
    cells: np.ndarray | None = None,
    stress: np.ndarray | None = None,
) -> Member:
    """Find the neighbours of every frame and move everything to the device in float32.

    Args:
      positions: [f, n, 3] Å.
      forces: [f, n, 3] eV/Å.
      energy: [f] eV, relative to the isolated atoms (float64).
      r_max: cutoff, Å.
      capacity: largest number of neighbours of an atom; frames that need more are refused.
      slots: k, neighbour slots per row; an atom uses as many rows as it needs in each frame.
      cells: [f, 3, 3] Å of crystals; None for molecules.
      stress: [f, 3, 3] eV/Å³ of crystals.

    Raises:
      DataError: if an atom has more neighbours than the capacity, or only one of cells and stress is given.
    """
    if (cells is None) != (stress is None):
        raise DataError("collection: cells and stress belong together; got one of them")
    frame, receiver, sender, shift = _edges(positions, cells, r_max)
    neighbors, receivers, shifts = _rows(positions.shape[:2], frame, receiver, sender, shift, slots, capacity, r_max)
    # Float32 is too inaccurate for positions far from zero; the median is near most of the atoms.
    near = positions - np.median(positions, axis=1, keepdims=True)
    x, f, e = (jnp.asarray(a, jnp.float32) for a in (near, forces, energy))
    member = Member(x, f, e, jnp.asarray(neighbors), jnp.asarray(receivers))
    if cells is None:
        return member
    return member._replace(
        cell=jnp.asarray(cells, jnp.float32), shifts=jnp.asarray(shifts), stress=jnp.asarray(stress, jnp.float32)
    )


def _edges(positions: np.ndarray, cells: np.ndarray | None, r_max: float) -> tuple[np.ndarray, ...]:
    """Frame, receiver, sender [e] and translation [e, 3] of all edges, ordered by frame and receiver."""
    found = []
    _, n, _ = positions.shape
    for f, r in enumerate(positions):
        if cells is None:
            close = np.sum((r[:, None] - r[None]) ** 2, axis=-1) < r_max**2
            receiver, sender = np.nonzero(close & ~np.eye(n, dtype=bool))
            shift = np.zeros((len(receiver), 3))
        else:
            structure = Structure(np.ones(n, int), r, cells[f], np.ones(3, bool))
            receiver, sender, shift = pairs(structure, cells[f], r_max)
            order = np.argsort(receiver, kind="stable")
            receiver, sender, shift = receiver[order], sender[order], shift[order]
        found.append((np.full(len(receiver), f), receiver, sender, shift))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def _rows(
    shape: tuple[int, ...],
    frame: np.ndarray,
    receiver: np.ndarray,
    sender: np.ndarray,
    shift: np.ndarray,
    slots: int,
    capacity: int,
    r_max: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours [f, r, slots], receivers [f, r] and shifts [f, r, slots, 3]; r is the largest number of rows."""
    frames, n = shape
    atom = frame * n + receiver
    degree = np.bincount(atom, minlength=frames * n)
    if degree.max(initial=0) > capacity:
        raise DataError(f"an atom has {degree.max()} neighbours within {r_max} Å; allowed: up to {capacity}")
    rank = np.arange(len(atom)) - (np.cumsum(degree) - degree)[atom]
    count = -(-degree // slots).reshape(frames, n)
    first = np.cumsum(count, axis=-1) - count
    rows = max(1, int(count.sum(axis=-1).max()))
    row = first[frame, receiver] + rank // slots
    neighbors = np.full((frames, rows, slots), -1, np.int16)
    neighbors[frame, row, rank % slots] = sender
    shifts = np.zeros((frames, rows, slots, 3), np.int8)
    shifts[frame, row, rank % slots] = shift
    receivers = np.full((frames, rows), n - 1, np.int16)
    receivers[frame, row] = receiver
    return neighbors, receivers, shifts


def draw(collection: Collection, indices: tuple[jax.Array, ...]) -> Draw:
    """Gather frames `indices[i] [m]` of every member i into one disjoint graph."""
    parts, offset = [], 0
    for member, index in zip(collection.members, indices, strict=True):
        m, n = index.shape[0], member.positions.shape[1]
        local = member.neighbors[index].astype(jnp.int32)
        shift = offset + jnp.arange(m, dtype=jnp.int32)[:, None] * n
        mask = local >= 0
        senders = jnp.where(mask, local + shift[:, :, None], 0)
        k = local.shape[-1]
        translation = cell_volume = stress = None
        if member.cell is not None and member.shifts is not None and member.stress is not None:
            cell = member.cell[index]
            lattice = member.shifts[index].astype(cell.dtype)
            translation = jnp.einsum("mrki,mij->mrkj", lattice, cell, precision="highest").reshape(-1, k, 3)
            cell_volume, stress = jnp.abs(jnp.linalg.det(cell)), member.stress[index]
        parts.append(
            Draw(
                member.positions[index].reshape(m * n, 3),
                member.forces[index].reshape(m * n, 3),
                member.energy[index],
                senders.reshape(-1, k),
                mask.reshape(-1, k),
                (member.receivers[index].astype(jnp.int32) + shift).reshape(-1),
                translation,
                cell_volume,
                stress,
            )
        )
        offset += m * n
    return jax.tree.map(lambda *field: jnp.concatenate(field), *parts)


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
    """Least-squares energy of each element [elements], eV, from the mean energies of several compositions."""
    counts = np.array([np.bincount(species_index(z, elements), minlength=len(elements)) for z in numbers], float)
    return np.linalg.lstsq(counts, np.asarray(mean_energies), rcond=None)[0]
