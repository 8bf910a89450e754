"""Label perovskite cells with SevenNet-0, the teacher of the small crystal model; resumable.

    python scripts/label_perovskites.py OUT_DIR [--frames N] [--only LaMnO3]

Needs `pip install sevenn`. For every composition OUT_DIR receives `<name>.extxyz` with energies, forces and stress
of 20-atom cells: the Pbnm structure with tilts between none and 1.3 of LaMnO3's, scaled about the volume that the
teacher prefers, strained, rattled, and walked through by molecular dynamics at 200-1600 K; "+H" adds two protons.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from sevenn.calculator import SevenNetCalculator

CUBIC = {  # pseudo-cubic lattice parameter to start from, Å
    "LaMnO3": 3.95,
    "CaMnO3": 3.75,
    "SrMnO3": 3.82,
    "LaTiO3": 3.96,
    "CaTiO3": 3.83,
    "SrTiO3": 3.92,
    "CaZrO3": 4.02,
    "SrZrO3": 4.12,
    "CaZrS3": 4.80,
    "SrZrS3": 4.95,
    "LaMnO3+H": 3.95,
    "CaZrO3+H": 4.02,
    "CaZrS3+H": 4.80,
}
PBNM = np.array([[0.9922, 0.0490, 0.25], [0.5, 0.0, 0.0], [0.0745, 0.4874, 0.25], [0.7256, 0.3066, 0.0384]])
"""Sites A, B, X1, X2 of LaMnO3 in Pbnm."""
IDEAL = np.array([[1.0, 0.0, 0.25], [0.5, 0.0, 0.0], [0.0, 0.5, 0.25], [0.75, 0.25, 0.0]])
CLOSEST = 0.75
"""Frames with atoms closer than this are not labelled, Å."""


def images(site: np.ndarray) -> np.ndarray:
    """The eight Pbnm images of a site, duplicates left out."""
    x, y, z = site
    half = 0.5
    found: list[np.ndarray] = []
    for image in (
        (x, y, z),
        (-x, -y, z + half),
        (half - x, half + y, half - z),
        (half + x, half - y, -z),
        (-x, -y, -z),
        (x, y, half - z),
        (half + x, half - y, half + z),
        (half - x, half + y, z),
    ):
        wrapped = np.mod(image, 1.0)
        if all(np.linalg.norm(np.mod(wrapped - f + half, 1.0) - half) > 1e-6 for f in found):
            found.append(wrapped)
    return np.array(found)


def perovskite(name: str, tilt: float, a: float) -> Atoms:
    """The 20-atom cell of a composition; tilt 0 is cubic, 1 is LaMnO3's."""
    formula = name.removesuffix("+H").removesuffix("3")
    symbols = [formula[:2], formula[2:4], formula[4:], formula[4:]]
    sites, kinds = [], []
    for symbol, ideal, tilted in zip(symbols, IDEAL, PBNM, strict=True):
        found = images(tilted)
        # An ideal site can lie on a symmetry element that the tilted one leaves: interpolate image by image.
        target = np.array([_nearest(image, images(ideal)) for image in found])
        sites.append(target + tilt * (np.mod(found - target + 0.5, 1.0) - 0.5))
        kinds += [symbol] * len(found)
    cell = np.diag([np.sqrt(2.0) * a, np.sqrt(2.0) * a * (1.0 + 0.03 * tilt), 2.0 * a])
    return Atoms(kinds, scaled_positions=np.mod(np.concatenate(sites), 1.0), cell=cell, pbc=True)


def _nearest(point: np.ndarray, among: np.ndarray) -> np.ndarray:
    apart = np.mod(among - point + 0.5, 1.0) - 0.5
    return among[np.argmin(np.linalg.norm(apart, axis=1))]


def with_protons(atoms: Atoms, rng: np.random.Generator, count: int = 2) -> Atoms:
    """Add protons at random sides of X atoms."""
    x = atoms.get_chemical_symbols()[-1]
    hosts = rng.choice([i for i, s in enumerate(atoms.get_chemical_symbols()) if s == x], count, replace=False)
    length = {"O": 0.98, "S": 1.36}[x]
    grown = atoms.copy()
    for host in hosts:
        for _ in range(200):
            direction = rng.normal(size=3)
            site = atoms.positions[host] + length * direction / np.linalg.norm(direction)
            trial = grown + Atoms("H", positions=[site], cell=atoms.cell, pbc=True)
            others = [i for i in range(len(grown)) if i != host]
            if trial.get_distances(-1, others, mic=True).min() > 1.3:
                grown = trial
                break
    return grown


def frames(name: str, count: int, calculator, rng: np.random.Generator) -> Iterator[Atoms]:
    """Half strained and rattled cells, half steps of short molecular dynamics."""
    scales = CUBIC[name] * np.linspace(0.95, 1.06, 7)
    energies = []
    for a in scales:
        atoms = perovskite(name, 0.7, a)
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
    best = float(scales[int(np.argmin(energies))])
    made = 0
    while made < count:
        atoms = perovskite(name, float(rng.uniform(0.0, 1.3)), best * float(rng.uniform(0.97, 1.03)))
        if name.endswith("+H"):
            atoms = with_protons(atoms, rng)
        strain = rng.normal(0.0, 0.015, (3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
        if rng.random() < 0.5:
            atoms.positions += rng.normal(0.0, rng.choice([0.02, 0.05, 0.1, 0.15]), (len(atoms), 3))
            made += 1
            yield atoms
            continue
        atoms.calc = calculator
        temperature = float(rng.uniform(200.0, 1600.0))
        MaxwellBoltzmannDistribution(atoms, temperature_K=2.0 * temperature, rng=rng)
        md = Langevin(atoms, 2.0 * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=rng)
        for _ in range(4):
            md.run(4)
            made += 1
            yield atoms.copy()


def label(atoms: Atoms, calculator) -> Atoms | None:
    """The frame with the teacher's numbers, or None where atoms are too close."""
    distances = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)]
    if distances.min() < CLOSEST:
        return None
    atoms.calc = calculator
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
    if np.abs(forces).max() > 30.0:
        return None
    done = atoms.copy()
    done.info.update(REF_energy=float(energy), REF_stress=stress)
    done.arrays["REF_forces"] = forces
    done.arrays.pop("momenta", None)
    return done


def main() -> None:
    """Label every composition that is not complete yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=80, help="of each composition, and three times as many of LaMnO3")
    parser.add_argument("--only", action="append")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    calculator = SevenNetCalculator("7net-0", device="cpu")
    for seed, name in enumerate(CUBIC):
        path = args.out / f"{name}.extxyz"
        if path.exists() or (args.only and name not in args.only):
            continue
        rng = np.random.default_rng(seed)
        count = args.frames * (3 if name == "LaMnO3" else 1)
        labelled = [label(atoms, calculator) for atoms in frames(name, count, calculator, rng)]
        kept = [atoms for atoms in labelled if atoms is not None]
        ase.io.write(path.with_suffix(".tmp"), kept, format="extxyz")
        path.with_suffix(".tmp").rename(path)
        print(f"{name}: {len(kept)} of {len(labelled)} frames", flush=True)


if __name__ == "__main__":
    main()
