"""Neighbour lists: allocated on the host, updated inside jit, overflow reported as a bit.

A list stores lattice translations with the indices, so cutoffs longer than half the box, tilted cells
and single-atom cells need no special treatment. Positions are never wrapped: a stored translation is valid until
the next update. Edges within `r_max + skin` stay valid until some atom or cell vector has moved so far that a
pair could have crossed the skin; `stale` detects this and includes the deformation of the cell.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import vesin
from ase.data import chemical_symbols

from bayes_mlff.core.errors import DataError
from bayes_mlff.data import origin as origins
from bayes_mlff.data.graph import Graph, exact_dot, pad_slots
from bayes_mlff.data.origin import Origin
from bayes_mlff.data.structure import Structure, check

BLOCK: Final = 1 << 18
"""Number of pairs that are evaluated together, some tens of bytes each."""

BEYOND_NEAREST: Final = 0.501
"""Largest distance of a nearest image, in cell heights, with a margin for rounding errors."""

THINNER: Final = 0.05
"""Fraction of its heights that a cell may lose before more images are needed."""


class NeighborSpec(NamedTuple):
    """Static description of a list that is updated inside jit; hashable."""

    r_max: float  # Å
    skin: float  # Å
    capacity: int  # neighbour slots per atom
    images: tuple[int, int, int]  # m: the 2m - 1 nearest images along each cell vector are searched; 0: not periodic

    @property
    def reach(self) -> float:
        """Distance up to which neighbours are listed, Å."""
        return self.r_max + self.skin


class NeighborState(NamedTuple):
    """A neighbour list and the geometry it was built for."""

    graph: Graph
    reference: jax.Array  # [n, 3] Å, positions at the last update
    reference_cell: jax.Array  # [3, 3] Å
    overflow: jax.Array  # [] bool, capacity or number of images is too small: the list is incomplete


def species_index(numbers: np.ndarray, elements: tuple[int, ...]) -> np.ndarray:
    """Position of each atomic number in the model's table of elements.

    Raises:
      DataError: if an element is unknown to the model.
    """
    check_elements(numbers, elements)
    table = {z: i for i, z in enumerate(elements)}
    return np.array([table[int(z)] for z in numbers], np.int32)


def check_elements(numbers: np.ndarray, elements: tuple[int, ...]) -> None:
    """Refuse atomic numbers that are not among the model's elements.

    Raises:
      DataError: naming the elements.
    """
    unknown = np.setdiff1d(numbers, elements)
    if len(unknown):
        got, known = ([chemical_symbols[z] for z in some] for some in (unknown, elements))
        raise DataError(f"structure: got elements {got}; allowed: the model's elements {known}")


def complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Replace the vectors of non-periodic directions by unit normals, so that the cell is never singular."""
    if not np.any(pbc):
        return np.eye(3)
    full = np.array(cell, np.float64)
    _, _, basis = np.linalg.svd(full[pbc])
    full[~pbc] = basis[np.count_nonzero(pbc) :]
    return full


def image_range(cell: np.ndarray, pbc: np.ndarray, reach: float) -> tuple[int, int, int]:
    """Images of a pair that have to be searched along each cell vector, as in `NeighborSpec`.

    They are enough for cells that become 5 % thinner, so that a fluctuating cell does not immediately need more.
    """
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    needed = (1.0 + THINNER) * reach / heights + BEYOND_NEAREST
    return tuple(int(np.floor(x)) + 1 if p else 0 for x, p in zip(needed, pbc, strict=True))  # type: ignore[return-value]


def allocate(
    structure: Structure,
    elements: tuple[int, ...],
    r_max: float,
    *,
    skin: float = 0.5,
    slack: float = 1.25,
    dtype: np.dtype | type = np.float32,
    origin: Origin | None = None,
) -> tuple[NeighborSpec, NeighborState]:
    """Build the first list on the host and fix its capacity.

    Args:
      structure: initial structure.
      elements: atomic numbers of the model's species.
      r_max: cutoff, Å.
      skin: extra radius within which edges are kept, Å.
      slack: ratio of the capacity to the present largest number of neighbours.
      dtype: of the positions on the device.
      origin: origin of the positions on the device; by default near the atoms.

    Returns:
      The static description and the state for `update`.

    Raises:
      DataError: if the structure is unusable or has an element that the model does not know.
    """
    check(structure)
    species = species_index(structure.numbers, elements)
    cell = complete_cell(structure.cell, structure.pbc)
    start = origins.find(structure) if origin is None else origin
    structure = structure._replace(positions=start.local(structure.positions, structure.cell))
    reach = r_max + skin
    n = len(species)
    first, second, shift = pairs(structure, cell, reach)
    counts = np.bincount(first, minlength=n)
    capacity = int(np.ceil(slack * counts.max(initial=1)))
    if not structure.pbc.any():
        capacity = min(capacity, n - 1)
    spec = NeighborSpec(float(r_max), float(skin), max(capacity, 1), image_range(cell, structure.pbc, reach))
    return spec, _pack(structure, species, cell, first, second, shift, spec, np.dtype(dtype))


def pairs(structure: Structure, cell: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre [e], neighbour [e] and translation [e, 3] of all pairs closer than reach, Å, in both directions."""
    calculator = vesin.NeighborList(cutoff=reach, full_list=True)
    first, second, shift = calculator.compute(
        points=_gaps_closed(structure, cell, reach), box=cell, periodic=np.asarray(structure.pbc), quantities="ijS"
    )
    return np.asarray(first, np.int64), np.asarray(second, np.int64), np.asarray(shift, np.float64)


def _gaps_closed(structure: Structure, cell: np.ndarray, reach: float) -> np.ndarray:
    """Positions with the same pairs, without wide gaps along non-periodic directions.

    Vesin divides space into boxes as large as the reach, and crashes if there are too many of them.
    """
    positions = np.array(structure.positions, np.float64)
    for axis in cell[~np.asarray(structure.pbc, bool)]:
        along = positions @ axis
        order = np.argsort(along, kind="stable")
        spare = np.maximum(np.diff(along[order]) - 2.0 * reach, 0.0)
        if spare.any():
            positions[order[1:]] -= np.cumsum(spare)[:, None] * axis
    return positions


def _pack(
    structure: Structure,
    species: np.ndarray,
    cell: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    shift: np.ndarray,
    spec: NeighborSpec,
    dtype: np.dtype,
) -> NeighborState:
    n, k = len(species), spec.capacity
    order = np.argsort(first, kind="stable")
    first, second, shift = first[order], second[order], shift[order]
    slot = np.arange(len(first)) - np.searchsorted(first, first)
    neighbors = np.zeros((n, k), np.int32)
    shifts = np.zeros((n, k, 3), dtype)
    mask = np.zeros((n, k), bool)
    neighbors[first, slot] = second
    shifts[first, slot] = shift
    mask[first, slot] = True
    positions = jnp.asarray(structure.positions, dtype)
    graph = Graph(
        positions,
        jnp.asarray(cell, dtype),
        jnp.asarray(species),
        jnp.ones(n, bool),
        jnp.asarray(neighbors),
        jnp.asarray(shifts),
        jnp.asarray(mask),
    )
    return NeighborState(graph, positions, graph.cell, jnp.zeros([], bool))


def move(state: NeighborState, positions: jax.Array, cell: jax.Array) -> NeighborState:
    """Put new positions [n, 3] Å and cell [3, 3] Å into the graph, keeping its edges."""
    return state._replace(graph=state.graph._replace(positions=positions, cell=cell))


def stale(state: NeighborState, spec: NeighborSpec) -> jax.Array:
    """True once an edge shorter than r_max may be missing from the list.

    Let d_i be the displacements without the affine deformation F of the cell. A pair now at distance r was at most
    |F⁻¹|·r + 2·max|F⁻¹ d| apart when the list was built.
    """
    deform = jnp.linalg.solve(state.reference_cell, state.graph.cell)
    back = jnp.linalg.inv(deform)
    moved = exact_dot(state.graph.positions, back) - state.reference
    moved = moved - jnp.mean(moved, axis=0, keepdims=True)
    stretch = jnp.sqrt(jnp.linalg.eigvalsh(exact_dot(back, back.T))[-1])
    drift = 2.0 * jnp.sqrt(jnp.max(jnp.sum(moved**2, axis=-1)))
    return spec.r_max * stretch + drift > spec.reach


@partial(jax.jit, static_argnames="spec")
def update(state: NeighborState, spec: NeighborSpec) -> NeighborState:
    """Search all neighbours again, inside jit: every pair of atoms, in its nearest images.

    The nearest image is found by rounding the fractional vector of a pair, so atoms may have drifted anywhere. An
    image with fractional component f along a cell vector of height h is at least |f| h away, so the 2m - 1
    nearest images along it include all within reach as long as reach < (m - 1/2) h. Time grows with the square of the
    number of atoms, memory linearly.

    Args:
      state: the graph with the positions to search for.
      spec: static description from `allocate`.

    Returns:
      A list of the same shapes; `overflow` is set, and stays set, if an atom has more neighbours than slots or
      if the cell has become so thin that the searched images do not suffice.
    """
    graph = state.graph
    n, k = graph.neighbors.shape
    inverse = jnp.linalg.inv(graph.cell)
    grid = _image_grid(spec, graph.positions.dtype)
    images = grid.shape[0]
    translations = exact_dot(grid, graph.cell)
    central = jnp.all(grid == 0, axis=-1)
    indices = jnp.arange(n)
    fractional = exact_dot(graph.positions, inverse)
    repeats = jnp.asarray([m > 0 for m in spec.images])[None, :]

    def search(i: jax.Array):
        apart = graph.positions - graph.positions[i][None, :]
        nearest = jnp.where(repeats, -jnp.round(fractional - fractional[i][None, :]), 0.0)
        # Three explicit products are fused with the following operations; a matrix product would not be.
        apart = apart + jnp.sum(nearest[:, :, None] * graph.cell[None, :, :], axis=1)
        vectors = apart[:, None, :] + translations[None, :, :]
        itself = (indices == i)[:, None] & central[None, :]
        close = (jnp.sum(vectors**2, axis=-1) < spec.reach**2) & ~itself & graph.node_mask[:, None]
        close = close.reshape(-1) & graph.node_mask[i]
        chosen = jnp.nonzero(close, size=k, fill_value=n * images)[0]
        mask = chosen < n * images
        chosen = jnp.where(mask, chosen, 0)
        neighbors = chosen // images
        shifts = jnp.where(mask[:, None], nearest[neighbors] + grid[chosen % images], 0.0)
        return neighbors.astype(graph.neighbors.dtype), shifts, mask, jnp.sum(close) > k

    neighbors, shifts, mask, too_many = _in_blocks(search, n, max(1, BLOCK // (n * images)))
    graph = graph._replace(neighbors=neighbors, shifts=shifts, edge_mask=mask)
    overflow = state.overflow | jnp.any(too_many) | _too_thin(inverse, spec)
    return NeighborState(graph, graph.positions, graph.cell, overflow)


def nearest(graph: Graph, centres: np.ndarray, spec: NeighborSpec) -> jax.Array:
    """Distance of every atom from the nearest of some, [n] Å, inside jit; exact up to the reach of `spec`.

    Args:
      graph: the positions and the cell.
      centres: [m] indices of the atoms that distances are measured from; their own is 0.
      spec: reach and images, see `image_range`; nan everywhere once the cell has become too thin for them.
    """
    grid, inverse = _image_grid(spec, graph.positions.dtype), jnp.linalg.inv(graph.cell)
    apart = graph.positions[None, :, :] - graph.positions[centres][:, None, :]
    repeats = jnp.asarray([m > 0 for m in spec.images])[None, None, :]
    apart = apart - exact_dot(jnp.where(repeats, jnp.round(exact_dot(apart, inverse)), 0.0), graph.cell)
    vectors = apart[:, :, None, :] + exact_dot(grid, graph.cell)[None, None, :, :]
    distance = jnp.sqrt(jnp.min(jnp.sum(vectors**2, axis=-1), axis=(0, 2)))
    return jnp.where(_too_thin(inverse, spec), jnp.nan, distance)


def _image_grid(spec: NeighborSpec, dtype: jnp.dtype) -> jax.Array:
    """Lattice translations [images, 3] around the nearest image."""
    spans = [jnp.arange(1 - max(m, 1), max(m, 1), dtype=dtype) for m in spec.images]
    return jnp.stack(jnp.meshgrid(*spans, indexing="ij"), axis=-1).reshape(-1, 3)


def _in_blocks(search: Callable, n: int, at_once: int) -> Any:
    """Results [n, ...] of a function of an index, in blocks of indices that fit into memory."""
    blocks = -(-n // at_once)
    rows = -(-n // blocks)
    indices = jnp.minimum(jnp.arange(blocks * rows), n - 1).reshape(blocks, rows)
    found = jax.lax.map(jax.vmap(search), indices)
    return jax.tree.map(lambda x: x.reshape(blocks * rows, *x.shape[2:])[:n], found)


def _too_thin(inverse: jax.Array, spec: NeighborSpec) -> jax.Array:
    """True if an edge could lie outside the searched images."""
    needed = spec.reach * jnp.linalg.norm(inverse, axis=0) + BEYOND_NEAREST
    available = jnp.asarray(spec.images, needed.dtype)
    return jnp.any((available > 0) & (needed >= available))


def widen(state: NeighborState, capacity: int) -> NeighborState:
    """Add empty neighbour slots up to `capacity` per atom."""
    return state._replace(graph=pad_slots(state.graph, capacity))
