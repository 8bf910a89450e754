"""No two runs share a folder of an engine, and no engine leaves its folder."""

import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from bayes_mlff.core.errors import EngineFailedError, EngineSetupError
from bayes_mlff.data.structure import Structure, from_ase
from bayes_mlff.engines.ase_engine import AseSettings
from bayes_mlff.engines.pyscf.molecule import PyscfSettings
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.engines.worker.engine import WorkerSettings
from tests.support.places import ROOT

FILES = textwrap.dedent('''
    """A calculator that works with files in its directory, as electronic-structure programs do."""
    import os, subprocess, sys, time
    import ase.io
    import numpy as np
    from ase.calculators.calculator import FileIOCalculator
    from ase.calculators.emt import EMT

    class FileCalculator(FileIOCalculator):
        implemented_properties = ["energy", "forces"]
        _legacy_default_command = "unused"

        def __init__(self, table=None, **kwargs):
            super().__init__(**kwargs)
            self.table = table

        def execute(self):
            subprocess.run([sys.executable, os.path.abspath(__file__)], cwd=self.directory, check=True)

        def write_input(self, atoms, properties=None, system_changes=None):
            super().write_input(atoms, properties, system_changes)
            ase.io.write(os.path.join(self.directory, "job.in"), atoms, format="extxyz")

        def read_results(self):
            data = np.load(os.path.join(self.directory, "job.out.npz"))
            shift = 0.0 if self.table is None else float(open(self.table).read())
            self.results = {"energy": float(data["e"]) + shift, "forces": data["f"]}

    class Failing(FileCalculator):
        def execute(self):
            raise KeyError("broken")

    if __name__ == "__main__":
        structure = ase.io.read("job.in", format="extxyz")
        time.sleep(float(os.environ.get("SECONDS", "0")))
        structure.calc = EMT()
        np.savez("job.out.npz", e=structure.get_potential_energy(), f=structure.get_forces())
''')


def copper(seed: int) -> Structure:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    return from_ase(atoms)


def right(structure: Structure) -> float:
    atoms = ase.Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc, calculator=EMT())
    return atoms.get_potential_energy()


@pytest.fixture
def base(tmp_path, monkeypatch):
    """Folder of a configuration with a calculator beside it; the tests start the program there."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "file_calculator.py").write_text(FILES)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SECONDS", "0")
    return folder


KINDS = pytest.mark.parametrize("kind", [AseSettings, WorkerSettings])


@KINDS
def test_files_lie_in_the_run_directory_and_nowhere_else(base, kind):
    settings = kind(calculator="file_calculator:FileCalculator")
    before = sorted(base.iterdir())
    with make_engine(settings, Path("run"), base=base) as engine:
        engine.check(copper(0))  # there is no run yet: a temporary folder
        assert sorted(p.name for p in base.iterdir() if p.name != "__pycache__") == [p.name for p in before]
        (base / "run").mkdir()
        assert engine.label(copper(0)).label.energy == pytest.approx(right(copper(0)), abs=1e-6)
    assert (base / "run" / "engine" / "job.in").is_file() and not (base / "job.in").exists()
    assert Path.cwd() == base


def test_the_working_directory_is_restored_after_an_error(base):
    (base / "run").mkdir()
    settings = AseSettings(calculator="file_calculator:Failing")
    with make_engine(settings, base / "run", base=base) as engine:
        with pytest.raises(EngineFailedError, match=r"KeyError: 'broken' \(.*file_calculator\.py, line \d+\)"):
            engine.label(copper(0))
        assert Path.cwd() == base


TWO = """
import sys
from pathlib import Path
import numpy as np
from ase.build import bulk
from bayes_mlff.data.structure import from_ase
from bayes_mlff.engines.ase_engine import AseSettings
from bayes_mlff.engines.registry import make_engine
folder, seed = Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir()
atoms = bulk("Cu", cubic=True)
atoms.rattle(0.1, seed=seed)
settings = AseSettings(calculator="file_calculator:FileCalculator")
with make_engine(settings, folder, base=Path()) as engine:
    print(engine.label(from_ase(atoms)).label.energy)
"""


def test_two_runs_started_in_one_folder_have_their_own_energies(base):
    """Both calculate at the same time: in one folder the second would overwrite the input of the first."""
    source = ROOT
    environment = os.environ | {"SECONDS": "1.5", "PYTHONPATH": str(source)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, f"run-{seed}", str(seed)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for seed in (0, 1)
    ]
    found = [float(process.communicate(timeout=120)[0]) for process in both]
    assert found == pytest.approx([right(copper(0)), right(copper(1))], abs=1e-6)
    assert abs(found[0] - found[1]) > 1e-3


def test_two_engines_of_one_process_have_their_own_energies(base, monkeypatch):
    monkeypatch.setenv("SECONDS", "0.3")
    found: dict[int, float] = {}

    def label(seed: int) -> None:
        folder = base / f"run-{seed}"
        folder.mkdir()
        with make_engine(AseSettings(calculator="file_calculator:FileCalculator"), folder, base=base) as engine:
            found[seed] = engine.label(copper(seed)).label.energy

    threads = [threading.Thread(target=label, args=(seed,)) for seed in (0, 1)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found[0] == pytest.approx(right(copper(0)), abs=1e-6)
    assert found[1] == pytest.approx(right(copper(1)), abs=1e-6)


@KINDS
@pytest.mark.parametrize("name", ["directory", "label"])
def test_a_folder_elsewhere_belongs_to_one_run(base, kind, name):
    shared = base / "scratch"
    settings = kind(
        calculator="file_calculator:FileCalculator",
        arguments={name: str(shared) if name == "directory" else str(shared / "job")},
    )
    for folder in ("one", "two"):
        (base / folder).mkdir()
    with (
        make_engine(settings, base / "one", base=base) as first,
        make_engine(settings, base / "two", base=base) as other,
    ):
        first.check(copper(0))
        with pytest.raises(EngineSetupError, match=rf"works in {shared}: another run works there; allowed: a folder"):
            other.check(copper(1))
        assert first.label(copper(0)).label.energy == pytest.approx(right(copper(0)), abs=1e-6)
        first.close()
        assert other.label(copper(1)).label.energy == pytest.approx(right(copper(1)), abs=1e-6)
    assert (shared / "job.in").is_file()


@KINDS
def test_relative_folders_start_from_that_of_the_engine(base, kind):
    settings = kind(calculator="file_calculator:FileCalculator", arguments={"directory": "inner"})
    for folder in ("one", "two"):
        (base / folder).mkdir()
    with make_engine(settings, base / "one", base=base) as one, make_engine(settings, base / "two", base=base) as two:
        for seed, engine in ((0, one), (1, two), (2, one)):
            assert engine.label(copper(seed)).label.energy == pytest.approx(right(copper(seed)), abs=1e-6)
    assert (base / "one" / "engine" / "inner" / "job.in").is_file()


@KINDS
def test_a_file_beside_the_configuration_is_found_from_anywhere(base, kind, tmp_path, monkeypatch):
    (base / "shift.dat").write_text("10.0")
    (base / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = kind(calculator="file_calculator:FileCalculator", arguments={"table": "shift.dat"})
    with make_engine(settings, base / "run", base=base) as engine:
        assert engine.label(copper(0)).label.energy == pytest.approx(right(copper(0)) + 10.0, abs=1e-6)
        here = engine.settings_hash
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    with make_engine(settings, moved / "run", base=moved) as engine:
        assert engine.settings_hash == here


def test_pyscf_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with make_engine(PyscfSettings(xc="lda", basis="sto-3g"), tmp_path / "run") as engine:
        energy = engine.label(from_ase(molecule("H2"))).label.energy
    assert np.isfinite(energy) and list(tmp_path.iterdir()) == []
