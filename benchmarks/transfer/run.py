"""Run the fine-tunings of a scenario that are not done yet; interrupted ones are continued.

    python -m benchmarks.transfer.run SCENARIO.yaml DATA_DIR RUNS_DIR [--method X ...] [--sizes M ...] [--seeds S ...]

Every fine-tuning gets a directory in RUNS_DIR/<scenario>/; one with a metrics.json is skipped. The sets are cut out of
the files in DATA_DIR and written to RUNS_DIR/<scenario>/data/. Several of these may run side by side, on different
methods, sizes or seeds; the seconds of sampling are then those of shared cores. Seeds share their compiled functions
where the environment variable JAX_COMPILATION_CACHE_DIR names a folder for them.
"""

import fcntl
from pathlib import Path

import numpy as np

from bayes_mlff.core.errors import DataError, RunDirectoryError
from bayes_mlff.data.molecule_sets import SGDML_KEYS, MoleculeSet, NpzKeys, read_npz
from bayes_mlff.data.npz import read_arrays, write_npz
from bayes_mlff.finetune import config as finetuning
from bayes_mlff.finetune import fit as finetune
from benchmarks.scenarios import arguments, run_all, selected
from benchmarks.transfer import scenario as scenarios
from benchmarks.transfer.scenario import Fit, Slice, Target


def cut(target: Target, part: Slice, data: Path) -> MoleculeSet:
    """The frames that a slice stands for.

    Raises:
      DataError: if the file is not as the target says, or has fewer frames than asked for.
    """
    path = data / part.file
    keys = NpzKeys(target.numbers_key, target.positions_key, target.energies_key, target.forces_key)
    frames = read_npz(path, keys=keys)
    index = np.arange(len(frames.energies)) if part.split is None else read_arrays(path, (part.split,))[0]
    last = len(index) if part.count is None else part.first + part.count
    if last > len(index):
        raise DataError(f"{path}: {len(index)} frames to choose from; asked for {part.first} to {last}")
    return frames.take(index[part.first : last])


def prepare(fit: Fit, data: Path, folder: Path) -> None:
    """Write the sets of a fine-tuning, the pool in the order of its seed, unless they are there.

    Other processes that prepare the same wait.

    Raises:
      RunDirectoryError: if another set is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = fit.target
    parts = (("validation", target.validation), ("test", target.test), (f"pool-s{fit.seed}", target.pool))
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, part in parts:
            path = folder / f"{name}.npz"
            frames = cut(target, part, data)
            if part is target.pool:
                frames = frames.take(np.random.default_rng(fit.seed).permutation(len(frames.energies)))
            if not path.is_file():
                write_npz(path, {"z": frames.numbers, "R": frames.positions, "E": frames.energies, "F": frames.forces})
            elif not all(map(np.array_equal, frames[:4], read_npz(path, keys=SGDML_KEYS)[:4])):
                raise RunDirectoryError(f"{path}: other frames than asked for; remove it or choose another folder")


def run(fit: Fit, scenario: Path, data: Path, runs: Path) -> bool:
    """Do one fine-tuning; False if it was done before.

    Raises:
      RunDirectoryError: if it was done with other settings.
    """
    sets, output = runs / "data" / fit.target.name, runs / fit.name
    prepare(fit, data, sets)
    config = scenarios.configuration(fit, sets, output, folders=(scenario.parent, data))
    if (output / "metrics.json").is_file():
        stored = finetuning.load(output / "config.yaml")
        if stored != scenarios.resolved(config, stored):
            raise RunDirectoryError(f"{output}: was made with other settings; remove it or choose another folder")
        return False
    finetune(config)
    return True


def main() -> None:
    """Run what is left to do, in the order of the file."""
    args = arguments(__doc__).parse_args()
    scenario = scenarios.load(args.scenario)
    runs = args.runs.absolute() / scenario.scenario
    files = args.scenario.absolute(), args.data.absolute()
    run_all(selected(scenarios.fits(scenario), args), lambda fit: run(fit, *files, runs))


if __name__ == "__main__":
    main()
