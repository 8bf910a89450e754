"""A run goes on from the last frame of another with its positions, velocities, masses and held coordinates."""

import itertools

import ase.io
import numpy as np
import pytest
import yaml
from ase.calculators.lj import LennardJones
from rich.console import Console

from bayes_mlff.api import runner
from bayes_mlff.api.console import ConsoleObserver
from bayes_mlff.api.observing import Silent
from bayes_mlff.data import dataset
from bayes_mlff.otf import config
from tests.support import small_run

LJ = {"sigma": 1.0, "epsilon": 0.02, "rc": 4.0, "smooth": True}


def start(folder, name, structure, **dynamics):
    """A run of which nearly every step is labelled, so that it is dynamics with the reference."""
    raw = yaml.safe_load(small_run.write(folder).read_text())
    raw |= {
        "structure": structure,
        "threshold": "1e-5 eV",
        "validation_frames": 0,
        "guards": {"storm_labels": 1000, "label_sigmas": 1e9, "label_thresholds": 1e9},
        "engine": {"name": "ase", "calculator": "ase.calculators.lj:LennardJones", "arguments": LJ},
        "dynamics": {"timestep_fs": 0.25, "chunk_steps": 8, "trajectory_every": 1, "masses": {"H": 2.014}} | dynamics,
    }
    said = Console(record=True, width=300, quiet=False, file=(folder / "said.txt").open("w"))
    parsed = config.parse(raw)
    with ConsoleObserver(said, parsed) as observer:
        runner.run(parsed, folder / name, base=folder, observer=observer)
    return folder / name, said.export_text()


def energies(run):
    """Kinetic energy of each step, eV, and the reference's energy of each labelled one."""
    thermo = np.genfromtxt(run / "thermo.csv", delimiter=",", names=True)
    labels = {r.step: r.label.energy for r in dataset.read(run / "dataset.extxyz")}
    return {int(row["step"]): float(row["kinetic_ev"]) for row in thermo}, labels


@pytest.fixture(scope="module")
def both(tmp_path_factory, undrawn):
    folder = tmp_path_factory.mktemp("continued")
    known = ase.io.read("tests/data/cases/fixed.xyz")
    assert isinstance(known, ase.Atoms)
    known.symbols = "OHHH"
    known.positions += [1e4, -2e3, 0.0]
    ase.io.write(folder / "start.xyz", known)
    first, _ = start(folder, "nvt", "start.xyz", duration_ps=0.002, temperature_k=400.0)
    second, said = start(folder, "nve", "nvt/trajectory.extxyz", duration_ps=0.00125, ensemble="nve")
    return folder, first, second, said


def test_nve_goes_on_with_the_total_energy_that_nvt_ended_with(both):
    _, first, second, said = both
    kinetic, labels = energies(first)
    last = ase.io.read(first / "trajectory.extxyz")
    assert isinstance(last, ase.Atoms)
    moved = last.copy()
    moved.set_constraint()
    moved.calc = LennardJones(**LJ)
    expected = moved.get_potential_energy() + kinetic[8]
    assert expected == pytest.approx(moved.get_potential_energy() + last.get_kinetic_energy(), abs=1e-6)
    kinetic, labels = energies(second)
    assert sorted(labels)[:3] == [0, 1, 2]
    totals = np.array([kinetic[step] + energy for step, energy in labels.items() if step])
    assert "those of the structure's file" in said
    np.testing.assert_allclose(totals, expected, rtol=0, atol=5e-5)  # of the time step
    assert np.ptp([kinetic[step] for step in kinetic]) > 2e-4  # what would be seen were velocities others


def test_masses_held_coordinates_and_places_go_with_the_frames(both):
    folder, first, second, said = both
    known = ase.io.read(folder / "start.xyz")
    for run in (first, second):
        for frame in ase.io.read(run / "trajectory.extxyz", index=":"):
            np.testing.assert_array_equal(frame.positions[0], known.positions[0])
            np.testing.assert_array_equal(frame.get_masses(), [15.999, 2.014, 2.014, 2.014])
            assert not frame.arrays["momenta"][0].any()
        for record in dataset.read(run / "dataset.extxyz"):
            np.testing.assert_array_equal(record.structure.positions[0], known.positions[0])
            assert np.abs(record.label.forces[0]).max() > 0.0
    assert "1 atom (O: 0) in place; 9 of 12 coordinates move" in said and "2.014 amu" in said


def test_a_resumed_run_knows_where_its_atoms_are(both):
    _, _, second, _ = both
    before = ase.io.read(second / "trajectory.extxyz", index=":")
    changed = config.load(second / "config.yaml").model_dump(mode="json")
    changed["dynamics"]["duration_ps"] = 0.00175
    runner.resume(config.parse(changed), second, observer=Silent())
    after = ase.io.read(second / "trajectory.extxyz", index=":")
    assert len(before) == 5 and len(after) == 7
    for first, then in itertools.pairwise(after):
        np.testing.assert_array_equal(then.positions[0], first.positions[0])
        np.testing.assert_allclose(then.positions, first.positions, rtol=0, atol=0.02)
    kinetic, labels = energies(second)
    totals = [kinetic[step] + energy for step, energy in labels.items() if step]
    assert np.ptp(totals) < 5e-5
