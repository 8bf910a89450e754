"""LaMnO3, as measured and shaken."""

import numpy as np
from ase import Atoms

PBNM = ((1, 1, 1, 0, 0, 0), (1, -1, -1, 0.5, 0.5, 0), (-1, -1, 1, 0, 0, 0.5), (-1, 1, -1, 0.5, 0.5, 0.5))


def lanthanum_manganite() -> Atoms:
    """LaMnO3, Pbnm, 20 atoms."""
    sites = {
        "La": [(0.9922, 0.0490, 0.25)],
        "Mn": [(0.5, 0.0, 0.0)],
        "O": [(0.0745, 0.4874, 0.25), (0.7256, 0.3066, 0.0384)],
    }
    atoms = Atoms(cell=[5.5367, 5.7473, 7.6929], pbc=True)
    for symbol, places in sites.items():
        for place in places:
            images = np.array([s * (np.array(op[:3]) * place + op[3:]) for op in PBNM for s in (1, -1)]) % 1.0
            _, kept = np.unique(images.round(6) % 1.0, axis=0, return_index=True)
            atoms += Atoms(f"{symbol}{len(kept)}", positions=images[kept] @ atoms.cell)
    assert atoms.get_chemical_formula() == "La4Mn4O12"
    return atoms


def shaken(count: int, *, size: float = 0.08) -> list[Atoms]:
    rng = np.random.default_rng(5)
    frames = []
    for _ in range(count):
        atoms = lanthanum_manganite()
        atoms.positions += size * rng.normal(size=(20, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.01 * rng.normal(size=(3, 3))), scale_atoms=True)
        frames.append(atoms)
    return frames
