"""Label a molecule twice: many frames with GFN2-xTB along its own dynamics, few of them again with PBE/def2-SVP.

    python -m benchmarks.transfer.semiempirical START.xyz OUT_DIR [--frames 2000] [--targets 100] [--temperature 500]

OUT_DIR receives `source/gfn2.npz` (z, R, E_md17, F_md17, test_01; OUT_DIR/source is a DATA_DIR of scripts/pretrain.py)
and `pbe.npz` (z, R, E, F), which grows with every label; the same command goes on where it stopped. Frames for PBE are
spread over the second half of the dynamics. Needs the extras `xtb` and `pyscf`.
"""

import argparse
import time
from pathlib import Path

import ase.io
import numpy as np
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import FIRE

from bayes_mlff.data.npz import write_npz
from bayes_mlff.data.structure import from_ase
from bayes_mlff.engines.pyscf.engine import PyscfEngine, PyscfSettings

TIMESTEP_FS = 1.0
INTERVAL = 20
"""Steps between frames."""
LEVEL = PyscfSettings(xc="pbe", basis="def2-svp", grid_level=1, conv_tol_hartree=1e-7)


def gfn2(start: Path, frames: int, temperature_k: float, seed: int) -> dict[str, np.ndarray]:
    """Frames of Langevin dynamics from a relaxed geometry, energies and forces GFN2-xTB; a tenth is held out."""
    from tblite.ase import TBLite

    atoms = ase.io.read(start)
    assert isinstance(atoms, ase.Atoms)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    FIRE(atoms, logfile=None).run(fmax=0.05, steps=300)
    random = np.random.default_rng(seed)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature_k, rng=random)
    dynamics = Langevin(
        atoms, TIMESTEP_FS * units.fs, temperature_K=temperature_k, friction=0.01 / units.fs, rng=random
    )
    rows = []
    for _ in range(frames):
        dynamics.run(INTERVAL)
        rows.append((atoms.get_positions(), atoms.get_potential_energy(), atoms.get_forces()))
    positions, energies, forces = (np.array(column) for column in zip(*rows, strict=True))
    held_out = np.arange(0, frames, 10)
    return {"z": atoms.numbers, "R": positions, "E_md17": energies, "F_md17": forces, "test_01": held_out}


def label(frames: dict[str, np.ndarray], count: int, path: Path) -> None:
    """Add PBE labels one by one until there are `count`."""
    half = len(frames["R"]) // 2
    # In random order, so that any first part is spread over the dynamics.
    chosen = np.random.default_rng(0).permutation(np.linspace(half, 2 * half - 1, count).astype(int))
    done = dict(np.load(path)) if path.is_file() else {"R": [], "E": [], "F": []}
    rows = {key: list(done[key]) for key in ("R", "E", "F")}
    with PyscfEngine(LEVEL) as engine:
        for index in chosen[len(rows["R"]) :]:
            began = time.perf_counter()
            atoms = ase.Atoms(frames["z"], frames["R"][index])
            found = engine.label(from_ase(atoms)).label
            for key, value in (("R", atoms.positions), ("E", found.energy), ("F", found.forces)):
                rows[key].append(value)
            write_npz(path, {"z": frames["z"], **{key: np.array(value) for key, value in rows.items()}})
            print(f"{len(rows['R'])} of {count}: {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    """Do what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--temperature", type=float, default=500.0, help="K")
    args = parser.parse_args()
    source = args.out / "source" / "gfn2.npz"
    source.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_file():
        write_npz(source, gfn2(args.start, args.frames, args.temperature, 0))
    label(dict(np.load(source)), args.targets, args.out / "pbe.npz")


if __name__ == "__main__":
    main()
