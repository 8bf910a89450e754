"""Structures for tests of potentials: a molecule, a tilted crystal, a slab, and random ones."""

import numpy as np
from hypothesis import strategies as st

from bayes_mlff.data.structure import Structure

BOND = 0.9
"""Smallest distance between atoms of a random structure, Å."""


def ethanol() -> Structure:
    """Ethanol (trans) near its equilibrium geometry, without a cell."""
    numbers = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
    positions = np.array(
        [
            [1.1879, -0.3829, 0.0],
            [0.0, 0.5526, 0.0],
            [-1.1867, -0.2472, 0.0],
            [-1.9237, 0.3850, 0.0],
            [2.0985, 0.2306, 0.0],
            [1.1184, -1.0093, 0.8869],
            [1.1184, -1.0093, -0.8869],
            [-0.0227, 1.1812, 0.8852],
            [-0.0227, 1.1812, -0.8852],
        ]
    )
    return Structure(numbers, positions, np.zeros((3, 3)), np.zeros(3, bool))


def triclinic(numbers: tuple[int, int, int] = (6, 8, 1)) -> Structure:
    """A five-atom perovskite-like crystal ABX3, tilted, and displaced from its symmetric sites.

    Args:
      numbers: atomic numbers of A, B and X.

    Returns:
      A periodic structure whose cell vectors (about 3.3 Å) are shorter than the usual cutoffs.
    """
    a, b, x = numbers
    cell = np.array([[3.30, 0.0, 0.0], [0.55, 3.15, 0.0], [-0.40, 0.65, 3.45]])
    sites = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
    jitter = np.random.default_rng(7).normal(0.0, 0.05, (5, 3))
    return Structure(np.array([a, b, x, x, x]), sites @ cell + jitter, cell, np.ones(3, bool))


def slab(numbers: tuple[int, int] = (6, 8), *, layers: int = 3, vacuum: float = 12.0) -> Structure:
    """A rock-salt-like slab on an oblique surface cell, periodic in the plane only.

    Args:
      numbers: atomic numbers of the two alternating elements.
      layers: atomic layers.
      vacuum: added to the third cell vector, Å; the third direction is not periodic.

    Returns:
      The structure, with 2 · layers atoms displaced from their sites.
    """
    cell = np.array([[3.6, 0.0, 0.0], [0.7, 3.4, 0.0], [0.0, 0.0, 1.9 * layers + vacuum]])
    kinds, positions = [], []
    for layer in range(layers):
        for half in range(2):
            kinds.append(numbers[(layer + half) % 2])
            positions.append(0.5 * half * (cell[0] + cell[1]) + [0.0, 0.0, 1.9 * layer])
    jitter = np.random.default_rng(11).normal(0.0, 0.05, (len(kinds), 3))
    return Structure(np.array(kinds), np.array(positions) + jitter, cell, np.array([True, True, False]))


def supercell(structure: Structure, repeats: tuple[int, int, int]) -> Structure:
    """Repeat a structure along its cell vectors."""
    grid = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), -1).reshape(-1, 3)
    positions = (structure.positions[None, :, :] + (grid @ structure.cell)[:, None, :]).reshape(-1, 3)
    cell = structure.cell * np.array(repeats)[:, None]
    return Structure(np.tile(structure.numbers, len(grid)), positions, cell, structure.pbc)


def random_crystal(rng: np.random.Generator, n: int, elements: tuple[int, ...], *, wrapped: bool = True) -> Structure:
    """A dense crystal in a tilted cell, without atoms closer than `BOND` if the volume allows it.

    Args:
      rng: source of randomness.
      n: atoms.
      elements: atomic numbers to draw from.
      wrapped: if False, atoms are moved by up to three lattice vectors either way.
    """
    side = 2.2 * n ** (1.0 / 3.0) + 0.8
    cell = side * (np.eye(3) + np.tril(rng.uniform(-0.5, 0.5, (3, 3)), -1) + np.diag(rng.uniform(-0.15, 0.15, 3)))
    images = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
    positions = np.zeros((0, 3))
    while len(positions) < n:
        tries = rng.uniform(size=(64, 3)) @ cell
        around = (positions[None, :, :] + images[:, None, :]).reshape(-1, 3)
        gaps = np.linalg.norm(tries[:, None, :] - around[None, :, :], axis=-1).min(axis=1, initial=np.inf)
        positions = np.vstack([positions, tries[[np.argmax(np.minimum(gaps, BOND * 1.5))]]])
    if not wrapped:
        positions = positions + rng.integers(-3, 4, (n, 3)) @ cell
    return Structure(rng.choice(elements, n), positions, cell, np.ones(3, bool))


def random_molecule(rng: np.random.Generator, n: int, elements: tuple[int, ...]) -> Structure:
    """A compact cluster without a cell, grown one atom at a time at distances of 1.0 to 1.6 Å."""
    positions = np.zeros((1, 3))
    while len(positions) < n:
        direction = rng.normal(size=3)
        new = positions[rng.integers(len(positions))] + direction / np.linalg.norm(direction) * rng.uniform(1.0, 1.6)
        if np.linalg.norm(positions - new, axis=1).min() > BOND:
            positions = np.vstack([positions, new])
    return Structure(rng.choice(elements, n), positions, np.zeros((3, 3)), np.zeros(3, bool))


def crystals(elements: tuple[int, ...], *, max_atoms: int = 5, wrapped: bool = True) -> st.SearchStrategy[Structure]:
    """Hypothesis strategy of tilted dense crystals of 1 to `max_atoms` atoms."""
    return st.builds(
        lambda seed, n: random_crystal(np.random.default_rng(seed), n, elements, wrapped=wrapped),
        st.integers(0, 2**31),
        st.integers(1, max_atoms),
    )


def molecules(elements: tuple[int, ...], *, max_atoms: int = 6) -> st.SearchStrategy[Structure]:
    """Hypothesis strategy of clusters of 2 to `max_atoms` atoms."""
    return st.builds(
        lambda seed, n: random_molecule(np.random.default_rng(seed), n, elements),
        st.integers(0, 2**31),
        st.integers(2, max_atoms),
    )


def rotations(*, improper: bool = True) -> st.SearchStrategy[np.ndarray]:
    """Hypothesis strategy of orthogonal matrices [3, 3], half of them with an inversion if `improper`."""

    def build(seed: int, invert: bool) -> np.ndarray:
        q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
        q = q * np.sign(np.diag(r))
        q = q * np.sign(np.linalg.det(q))
        return -q if invert else q

    return st.builds(build, st.integers(0, 2**31), st.booleans() if improper else st.just(False))
