"""Energy, forces and stress that do not belong together are refused, right ones are not."""

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule

from bayes_mlff.core.errors import EngineSetupError
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure, from_ase
from bayes_mlff.engines.ase_engine import AseSettings
from bayes_mlff.engines.consistency import compare
from bayes_mlff.engines.pyscf.molecule import PyscfSettings
from bayes_mlff.engines.registry import make_engine

EMT = AseSettings(calculator="ase.calculators.emt:EMT", stress=True)


def copper(rattled: float = 0.0) -> Structure:
    atoms = bulk("Cu", cubic=True)
    if rattled:
        atoms.rattle(rattled, seed=1)
    return from_ase(atoms)


class Wrong:
    """An engine with another unit, sign or noise."""

    def __init__(self, engine, *, energy=1.0, forces=1.0, stress=1.0, noise=0.0):
        self._engine, self._factors, self._noise = engine, (energy, forces, stress), noise
        self._rng = np.random.default_rng(3)
        self.calls = 0

    def label(self, structure: Structure):
        self.calls += 1
        result = self._engine.label(structure)
        energy, forces, stress = self._factors
        label = result.label
        noise = self._noise * self._rng.normal()
        spoilt = Label(
            energy * label.energy + noise,
            forces * label.forces,
            None if label.stress is None else stress * label.stress,
        )
        return result._replace(label=spoilt)


@pytest.mark.parametrize("rattled", [0.0, 0.1])
def test_a_right_engine_passes_at_rest_and_away_from_it(rattled):
    with make_engine(EMT) as engine:
        counted = Wrong(engine)
        lines = compare(counted, copper(rattled), engine.label(copper(rattled)).label)
    assert len(lines) == 2 and counted.calls == 4
    assert lines[0].startswith("forces: along a random direction") and lines[1].startswith(
        "stress: along a random strain"
    )
    assert "too little" not in "".join(lines)


def test_tight_binding_and_density_functional_theory_pass():
    pytest.importorskip("tblite", reason="needs the tblite extra")
    structure = from_ase(molecule("CH3OH"))
    xtb = AseSettings(calculator="tblite.ase:TBLite", arguments={"method": "GFN2-xTB", "verbosity": 0})
    for settings in (xtb, PyscfSettings(xc="pbe", basis="sto-3g")):
        with make_engine(settings) as engine:
            (line,) = compare(engine, structure, engine.label(structure).label)
        assert "their work is" in line and "too little" not in line


@pytest.mark.parametrize("rattled", [0.0, 0.1])
@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ({"forces": 0.5}, r"energy and forces do not belong together: .*a factor of two"),
        ({"forces": 1.889726}, "bohr instead of Å"),
        ({"energy": 1.0 / 27.2114}, "hartree instead of eV"),
        ({"forces": -1.0}, "the opposite sign"),
        ({"energy": 0.25}, r"ratio 0\.2"),
        ({"stress": -1.0}, r"energy and stress do not belong together: .*the opposite sign"),
        ({"stress": 160.2177}, r"energy and stress .*GPa"),
        ({"forces": 1.15}, r"energy and forces"),
    ],
)
def test_units_and_signs_are_found_and_named(factors, said, rattled):
    with make_engine(EMT) as inner:
        engine = Wrong(inner, **factors)
        with pytest.raises(EngineSetupError, match=said):
            compare(engine, copper(rattled), engine.label(copper(rattled)).label)


def test_the_noise_of_a_converged_calculation_is_allowed():
    with make_engine(EMT) as inner:
        for _ in range(5):
            engine = Wrong(inner, noise=2e-4)
            compare(engine, copper(0.1), engine.label(copper(0.1)).label)


def test_what_is_too_flat_to_tell_is_said():
    far = from_ase(ase.Atoms("Ar2", [[0, 0, 0], [0, 0, 6.0]]))
    settings = AseSettings(
        calculator="ase.calculators.lj:LennardJones", arguments={"sigma": 3.4, "epsilon": 0.01, "rc": 20}
    )
    with make_engine(settings) as engine:
        assert "too little to be compared" in compare(engine, far, engine.label(far).label)[0]
