"""Real Kohn-Sham calculations, small enough to be repeated at every change."""

import ase
import numpy as np
import pytest
from ase.build import molecule
from ase.optimize import BFGS

from bayes_mlff.core.errors import (
    ConfigError,
    DataError,
    EngineFailedError,
    EngineRetryError,
    EngineSetupError,
)
from bayes_mlff.data.structure import Structure, from_ase
from bayes_mlff.engines.calculator import EngineCalculator
from bayes_mlff.engines.engine import Engine
from bayes_mlff.engines.pyscf import engine as pyscf_engine
from bayes_mlff.engines.pyscf.engine import PyscfEngine, PyscfSettings
from bayes_mlff.engines.registry import make_engine

pytest.importorskip("pyscf", reason="needs the pyscf extra")

FAST = PyscfSettings(basis="6-31g", grid_level=1)


def water(seed: int = 0, amplitude: float = 0.05) -> Structure:
    atoms = molecule("H2O")
    atoms.positions += amplitude * np.random.default_rng(seed).normal(size=(3, 3))
    return from_ase(atoms)


def stretched_water() -> Structure:
    atoms = molecule("H2O")
    atoms.positions[1:] *= 4.0
    return from_ase(atoms)


def displaced(structure: Structure, direction: np.ndarray, length: float) -> Structure:
    return structure._replace(positions=structure.positions + length * direction)


@pytest.mark.parametrize("spin", [0, 2])
def test_forces_are_the_slope_of_the_energy(spin):
    settings = FAST.model_copy(update={"grid_level": 3, "warm_start": False, "spin": spin})
    direction = np.random.default_rng(1).normal(size=(3, 3))
    direction /= np.linalg.norm(direction)
    h = 0.005  # Å; the third-order error is about 1e-4 eV/Å, the grid's 1e-4
    with PyscfEngine(settings) as engine:
        up, here, down = (engine.label(displaced(water(), direction, x)).label for x in (h, 0.0, -h))
    slope = (up.energy - down.energy) / (2 * h)
    assert abs(slope + np.sum(here.forces * direction)) < 1e-3
    assert abs(slope) > 0.1
    assert np.abs(here.forces.sum(axis=0)).max() < 5e-3


def test_the_energy_is_that_of_the_usual_b3lyp_in_ev():
    """Water in B3LYP/6-31G* has -76.408 Ha near its minimum; B3LYP with VWN5 is 1 eV away."""
    with PyscfEngine(PyscfSettings(basis="6-31g*", density_fit=False, grid_level=3)) as engine:
        energy = engine.label(water(amplitude=0.0)).label.energy
    assert energy == pytest.approx(-76.408 * 27.211386, abs=0.05)


def test_warm_start_gives_the_cold_label_in_fewer_cycles():
    target = water(2)
    with PyscfEngine(FAST) as warm, PyscfEngine(FAST.model_copy(update={"warm_start": False})) as cold:
        warm.label(displaced(target, np.eye(3), 0.01))
        one, other = warm.label(target), cold.label(target)
    assert abs(one.label.energy - other.label.energy) < 1e-6
    # The density's error is first order in the forces: conv_tol 1e-9 Ha leaves about 1e-5 eV/Å.
    np.testing.assert_allclose(one.label.forces, other.label.forces, atol=2e-4)
    assert "previous density" in one.diagnostics[-1] and "fresh start" in other.diagnostics[-1]
    cycles = [int(result.diagnostics[-1].split()[-2]) for result in (one, other)]
    assert cycles[0] < cycles[1]


def test_a_density_of_another_molecule_is_not_carried_over():
    with PyscfEngine(FAST) as engine:
        engine.label(water())
        assert "fresh start" in engine.label(from_ase(molecule("NH3"))).diagnostics[-1]


def test_a_restored_engine_repeats_labels_to_the_last_bit():
    with PyscfEngine(FAST) as engine:
        assert engine.save_state() is None
        engine.label(water(0))
        state = engine.save_state()
        expected = [engine.label(water(seed)).label for seed in (1, 2)]
        engine.restore_state(None)
        from_scratch = engine.label(water(1)).label
    with PyscfEngine(FAST) as resumed:
        resumed.restore_state(state)
        ballast = np.ones(20_000_000)
        labels = [resumed.label(water(seed)).label for seed in (1, 2)]
        assert ballast[0] == 1.0
    for label, wanted in zip(labels, expected, strict=True):
        assert label.energy == wanted.energy
        np.testing.assert_array_equal(label.forces, wanted.forces)
    assert from_scratch.energy != expected[0].energy or (from_scratch.forces != expected[0].forces).any()


def test_a_state_of_another_level_of_theory_is_refused():
    with PyscfEngine(FAST) as engine, PyscfEngine(FAST.model_copy(update={"xc": "pbe"})) as other:
        engine.label(water())
        with pytest.raises(DataError, match="level of theory"):
            other.restore_state(engine.save_state())


def test_unconverged_after_all_attempts_is_a_failure_and_the_engine_remains_usable():
    """Nothing converges in one cycle; the state before the failure is kept."""
    settings = FAST.model_copy(update={"max_cycle": 1, "basis": "sto-3g"})
    with PyscfEngine(settings) as engine:
        with pytest.raises(EngineFailedError) as caught:
            engine.label(stretched_water())
        for expected in (
            "attempt 1 of 3",
            "attempt 2 of 3",
            "attempt 3 of 3",
            "last energy change",
            "damping",
            "second",
        ):
            assert expected in str(caught.value)
        assert "not converged after 1 cycles" in str(caught.value)
    with PyscfEngine(FAST.model_copy(update={"max_cycle": 12, "basis": "sto-3g", "max_attempts": 1})) as engine:
        good = engine.label(water()).label
        state = engine.save_state()
        with pytest.raises(EngineFailedError, match="attempt 1 of 1"):
            engine.label(stretched_water())
        assert engine.save_state() == state
        engine.restore_state(None)
        assert engine.label(water()).label.energy == good.energy


@pytest.mark.parametrize(("fail_below", "attempts", "how"), [(1, 2, "level shift"), (2, 3, "second order")])
def test_each_rung_of_the_ladder_gives_the_same_label(monkeypatch, fail_below, attempts, how):
    with PyscfEngine(FAST) as engine:
        plain = engine.label(water()).label
        calls = []

        def failing(field, guess, text, run=pyscf_engine._run):
            calls.append(text)
            if len(calls) <= fail_below:
                raise EngineRetryError(f"{text}: planted")
            return run(field, guess, text)

        monkeypatch.setattr(pyscf_engine, "_run", failing)
        result = engine.label(water())
    assert result.attempts == attempts and how in result.diagnostics[-1]
    assert sum("planted" in line for line in result.diagnostics) == fail_below
    assert abs(result.label.energy - plain.energy) < 1e-6
    np.testing.assert_allclose(result.label.forces, plain.forces, atol=2e-4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"spin": 1},
            ConfigError,
            r"engine\.spin: got 1; allowed: an even .* at most 10, since structure\.charge 0 leaves",
        ),
        ({"charge": 1, "spin": 0}, ConfigError, r"engine\.spin: got 0; allowed: an odd"),
        ({"charge": 11}, ConfigError, r"engine\.charge: got 11"),
        ({"basis": "no-such-basis"}, EngineSetupError, r"engine\.basis.*no-such-basis.*pip install"),
        ({"xc": "no-such-functional"}, EngineSetupError, r"engine\.xc: got 'no-such-functional'"),
    ],
)
def test_settings_that_cannot_work_are_named(change, error, message):
    engine = PyscfEngine(FAST.model_copy(update=change))
    with pytest.raises(error, match=message):
        engine.check(water())
    with pytest.raises(error, match=message):
        engine.label(water())


def test_a_missing_dispersion_package_is_named():
    pyscf = pytest.importorskip("pyscf.scf.dispersion")
    if pyscf.dispersion is not None:
        pytest.skip("pyscf-dispersion is installed")
    with pytest.raises(EngineSetupError, match="pip install pyscf-dispersion"):
        PyscfEngine(FAST.model_copy(update={"dispersion": "d3bj"})).check(water())


def test_valence_basis_sets_need_their_core_potential():
    iodide = from_ase(ase.Atoms("HI", [[0, 0, 0], [0, 0, 1.61]]))
    with pytest.raises(EngineSetupError, match=r"engine\.ecp.*def2-svp.*I"):
        PyscfEngine(PyscfSettings()).check(iodide)
    PyscfEngine(PyscfSettings(ecp="def2-svp")).check(iodide)
    with pytest.raises(EngineSetupError, match="molecules"):
        PyscfEngine(FAST).check(water()._replace(cell=9.0 * np.eye(3), pbc=np.array([True] * 3)))


def test_radicals_and_ions_run_unrestricted_and_charged():
    with PyscfEngine(FAST.model_copy(update={"charge": 1, "spin": 1})) as engine:
        cation = engine.label(water())
        engine.label(water(1))
        assert engine.save_state() is not None
    with PyscfEngine(FAST) as engine:
        neutral = engine.label(water())
    assert 8.0 < cation.label.energy - neutral.label.energy < 16.0  # ionisation of water: 12.6 eV


def test_the_engine_serves_ase():
    """An ASE optimiser brings water to its known angle through the same engine."""
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    with make_engine(FAST) as engine:
        assert isinstance(engine, Engine)
        atoms.calc = EngineCalculator(engine)
        BFGS(atoms, logfile=None).run(fmax=0.05, steps=15)
        assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.05
        assert 102.0 < atoms.get_angle(1, 0, 2) < 111.0
