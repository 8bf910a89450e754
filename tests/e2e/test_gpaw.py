"""Real calculations with GPAW in its own process: silicon, and oxygen for its magnetic moments.

GPAW is looked for in this Python, or in the one that the variable BAYES_MLFF_GPAW_PYTHON names.
"""

import os
import subprocess
import sys

import ase
import numpy as np
import pytest
from ase.build import bulk

from bayes_mlff.core.errors import EngineSetupError
from bayes_mlff.core.units import GPA
from bayes_mlff.data.structure import Structure, from_ase
from bayes_mlff.engines.gpaw.engine import GpawEngine
from bayes_mlff.engines.gpaw.settings import GpawSettings
from bayes_mlff.engines.registry import make_engine

PYTHON = os.environ.get("BAYES_MLFF_GPAW_PYTHON", sys.executable)


def has_gpaw() -> bool:
    command = [PYTHON, "-c", "import gpaw, _gpaw"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not has_gpaw(), reason="needs GPAW: python -m bayes_mlff.engines.gpaw.install")

SILICON = GpawSettings(python=PYTHON, cutoff_ev=200.0, convergence="tight")


def silicon(seed: int | None = 0) -> Structure:
    atoms = bulk("Si")
    if seed is not None:
        atoms.rattle(0.1, seed=seed)
    return from_ase(atoms)


def test_forces_are_the_slope_of_the_energy(tmp_path):
    direction = np.random.default_rng(1).normal(size=(2, 3))
    direction -= direction.mean(axis=0)
    direction /= np.linalg.norm(direction)
    structure, h = silicon(), 0.01
    with make_engine(SILICON, tmp_path) as engine:
        engine.check(structure)
        here, up, down = (
            engine.label(structure._replace(positions=structure.positions + x * direction)) for x in (0.0, h, -h)
        )
    slope = (up.label.energy - down.label.energy) / (2 * h)
    assert abs(slope) > 0.1
    assert abs(slope + np.sum(here.label.forces * direction)) < 5e-3
    assert "energy is the calculator's free_energy" in here.diagnostics
    assert "mean force" in here.diagnostics[-1] and np.abs(here.label.forces.sum(axis=0)).max() < 1e-12
    assert (tmp_path / "engine" / "gpaw.txt").stat().st_size > 1000
    # ASE itself imports the package for its list of file formats.
    assert not {"gpaw.dft", "gpaw.calculator", "_gpaw"} & set(sys.modules)


def test_the_pressure_of_another_structure_is_that_of_the_high_cutoff_after_the_correction(tmp_path):
    """Oxygen is hard: at 250 eV magnesium oxide is wrong by tens of GPa, at every geometry by nearly the same."""
    raw = GpawSettings(python=PYTHON, cutoff_ev=250.0, stress="raw")
    corrected = raw.model_copy(update={"stress": "pulay-corrected", "pulay_cutoff_ev": 600.0})
    with GpawEngine(corrected, tmp_path) as engine:
        first = engine.label(magnesium_oxide(None))
        second = engine.label(magnesium_oxide(1))
        state = engine.save_state()
    with GpawEngine(corrected, tmp_path) as engine:
        engine.restore_state(state)
        third = engine.label(magnesium_oxide(1))
    with GpawEngine(raw.model_copy(update={"cutoff_ev": 600.0}), tmp_path) as engine:
        best = engine.label(magnesium_oxide(1))
    shift = shift_gpa(first.diagnostics)
    assert shift is not None and abs(shift) > 5.0
    assert abs(np.trace(second.label.stress - best.label.stress)) / 3 / GPA < 0.1 * abs(shift)
    assert abs(np.trace(third.label.stress - second.label.stress)) / 3 / GPA < 0.02 * abs(shift)
    assert shift_gpa(third.diagnostics) is None


def test_the_correction_follows_the_volume(tmp_path):
    """Eight per cent more volume: the same correction in GPa would be wrong by as much of it."""
    raw = GpawSettings(python=PYTHON, cutoff_ev=250.0, stress="raw")
    corrected = raw.model_copy(update={"stress": "pulay-corrected", "pulay_cutoff_ev": 600.0})
    with GpawEngine(corrected, tmp_path) as engine:
        shift = shift_gpa(engine.label(magnesium_oxide(None)).diagnostics)
        larger = engine.label(magnesium_oxide(1, a=4.32))
    with GpawEngine(raw.model_copy(update={"cutoff_ev": 600.0}), tmp_path) as engine:
        best = engine.label(magnesium_oxide(1, a=4.32))
    assert shift is not None
    assert abs(np.trace(larger.label.stress - best.label.stress)) / 3 / GPA < 0.03 * abs(shift)


def magnesium_oxide(seed: int | None, *, a: float = 4.21) -> Structure:
    atoms = bulk("MgO", "rocksalt", a=a)
    if seed is not None:
        atoms.rattle(0.05, seed=seed)
    return from_ase(atoms)


def shift_gpa(diagnostics: tuple[str, ...]) -> float | None:
    """Correction in GPa, if one of the remarks tells it."""
    found = [line for line in diagnostics if line.startswith("Pulay correction of")]
    return float(found[0].split()[3]) if found else None


def test_too_few_iterations_lead_to_the_next_rung(tmp_path):
    settings = SILICON.model_copy(update={"max_iterations": 3, "convergence": "loose"})
    with make_engine(settings, tmp_path) as engine:
        result = engine.label(silicon())
    assert result.attempts == 2 and "KohnShamConvergenceError" in result.diagnostics[0]
    with make_engine(SILICON.model_copy(update={"convergence": "loose"}), tmp_path) as engine:
        assert abs(engine.label(silicon()).label.energy - result.label.energy) < 2e-3


def test_moments_are_found_and_saved(tmp_path):
    atoms = ase.Atoms("O2", [[0, 0, 0], [0, 0, 1.22]], cell=[4.0, 4.5, 5.0], pbc=True)
    settings = GpawSettings(python=PYTHON, cutoff_ev=200.0, kpts=((0.0, 0.0, 0.0),), magmoms={"O": 1.0})
    with GpawEngine(settings, tmp_path) as engine:
        engine.label(from_ase(atoms))
        state = engine.save_state()
        assert state is not None and engine._worker._moments is not None
        assert all(moment > 0.3 for moment in engine._worker._moments)


@pytest.mark.parametrize(
    ("changes", "element", "said"),
    [({"xc": "nonsense"}, "Si", r"engine\.xc: got 'nonsense'"), ({}, "Po", r"no PAW data set Po\.PBE")],
)
def test_what_gpaw_does_not_have_is_said_before_a_calculation(tmp_path, changes, element, said):
    atoms = bulk("Si")
    atoms.symbols[:] = element
    with (
        make_engine(SILICON.model_copy(update=changes), tmp_path) as engine,
        pytest.raises(EngineSetupError, match=said),
    ):
        engine.check(from_ase(atoms))
