"""Vacuum in a periodic cell: directions without bonds, in which a barostat would strain the cell without resistance."""

from typing import Final

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.neighbors import pairs
from bayes_mlff.data.structure import Structure

FARTHEST: Final = 6.0
"""Largest distance, Å, at which two atoms count as linked. Contacts between molecules and between layers, as in
graphite, MoS2 or clays, are 3 to 4.5 Å long; nearest neighbours in crystals of an element at most 5.3."""

VECTORS: Final = ("a", "b", "c")


def held_together(structure: Structure, reach: float) -> np.ndarray:
    """Find the cell vectors along which the structure is connected.

    Atoms closer than `reach` are linked. A lattice translation resists strain if a path of links leads from an atom to
    its image by that translation; a cell vector counts as connected if it is a combination of such translations.

    Args:
      structure: periodic in three directions.
      reach: largest distance of linked atoms, Å.

    Returns:
      [3] bool, True for connected cell vectors.
    """
    first, second, shift = pairs(structure, structure.cell, reach)
    loops = _loops(len(structure.numbers), first, second, np.rint(shift).astype(np.int64))
    rank = _rank(loops)
    return np.array([_rank(np.vstack([loops, row])) == rank for row in np.eye(3, dtype=np.int64)])


def _loops(n: int, first: np.ndarray, second: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Lattice translations [l, 3] by which paths of links lead from atoms to their images, without duplicates."""
    graph = coo_matrix((np.ones(len(first)), (first, second)), shape=(n, n)).tocsr()
    _, label = connected_components(graph, directed=False)
    codes, one = np.unique(first * n + second, return_index=True)
    place = np.zeros((n, 3), np.int64)  # image in which an atom is reached from the first atom of its component
    for root in np.unique(label, return_index=True)[1]:
        order, before = breadth_first_order(graph, root, directed=False)
        atoms = order[1:]
        steps = shift[one[np.searchsorted(codes, before[atoms].astype(np.int64) * n + atoms)]]
        for atom, parent, step in zip(atoms.tolist(), before[atoms].tolist(), steps, strict=True):
            place[atom] = place[parent] + step
    found = place[first] + shift - place[second]
    return np.unique(found[np.any(found != 0, axis=1)], axis=0)


def _rank(rows: np.ndarray) -> int:
    return int(np.linalg.matrix_rank(rows)) if rows.size else 0


def gaps(structure: Structure) -> np.ndarray:
    """Thickness [3], Å, of the largest empty layer along the normal of each pair of cell vectors."""
    inverse = np.linalg.inv(structure.cell)
    fractional = np.sort((structure.positions @ inverse) % 1.0, axis=0)
    between = np.diff(np.vstack([fractional, fractional[:1] + 1.0]), axis=0).max(axis=0)
    return between / np.linalg.norm(inverse, axis=0)


def refuse_vacuum(structure: Structure, free: tuple[str, ...], r_max: float) -> None:
    """Refuse a barostat that would strain vacuum.

    Args:
      structure: periodic in three directions.
      free: cell vectors that may change.
      r_max: cutoff of the model, Å, beyond which it has no forces.

    Raises:
      ConfigError: naming the free vectors along which the structure is not connected, and what to change.
    """
    reach = min(r_max, FARTHEST)
    together = held_together(structure, reach)
    loose = [name for name, holds in zip(VECTORS, together, strict=True) if name in free and not holds]
    if not loose:
        return
    holding = [name for name, holds in zip(VECTORS, together, strict=True) if holds]
    gap = gaps(structure)
    found = [f"{gap[VECTORS.index(name)]:.3g} Å along {name}" for name in loose if gap[VECTORS.index(name)] > reach]
    empty = f" ({', '.join(found)})" if found else ""
    why = (
        f"along {', '.join(loose)} the structure is not connected by atoms within {reach:g} Å, so that its "
        f"vacuum{empty} would be strained without resistance"
    )
    if not holding:
        raise ConfigError("dynamics.ensemble", "npt", f"nvt or nve, at constant cell: {why}")
    raise ConfigError("dynamics.barostat.free", f"[{', '.join(free)}]", f"[{', '.join(holding)}], since {why}")
