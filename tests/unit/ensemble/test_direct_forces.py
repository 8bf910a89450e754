"""Forces that are not the gradient of the energy: no stress, no programs that conserve energies, no constant energy."""

import ase
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.ensemble import saved
from bayes_mlff.ensemble.calculator import DirectForcesWarning, EnsembleCalculator
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.finetune import config, run
from bayes_mlff.models import registry
from bayes_mlff.production import config as productions
from bayes_mlff.production import setup
from bayes_mlff.production.material import Material
from bayes_mlff.report import program_export
from bayes_mlff.testing import structures
from bayes_mlff.testing.tiny import tiny_equiformer_v2


@pytest.fixture(scope="module")
def ensembles():
    """By kind of forces, two samples of a small network."""
    made = {}
    for forces in ("direct", "gradient"):
        settings = tiny_equiformer_v2((1, 6, 8), forces=forces)
        flat = registry.initialize(settings, 0).flat()[0]
        parts = (settings, jnp.stack([flat, flat * jnp.float32(1.05)]), np.zeros((2, 3)), SigmaFactors(), 0.1, 0.1, "")
        made[forces] = Ensemble(*parts, compositions=np.eye(3, dtype=int))
    return made


def test_stress_is_not_offered(ensembles):
    with pytest.warns(DirectForcesWarning, match="not the gradient"):
        calculator = EnsembleCalculator(ensembles["direct"])
    atoms = ase.Atoms("CH", [[0.0, 0, 0], [1.0, 0.2, 0]], cell=4.0 * np.eye(3), pbc=True, calculator=calculator)
    assert np.isfinite(atoms.get_forces()).all() and not [name for name in calculator.results if "stress" in name]
    with pytest.raises(PropertyNotImplementedError, match="stress: the ensemble has forces that are not the gradient"):
        atoms.get_stress()
    assert "stress" in EnsembleCalculator(ensembles["gradient"]).implemented_properties
    assert "stress" in EnsembleCalculator.implemented_properties, "what one ensemble lacks is taken from all"


def test_programs_that_choose_their_dynamics_themselves_get_none(ensembles, tmp_path):
    saved.save(ensembles["direct"], tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match=r"ensemble: got 'direct forces'.*for dynamics in ase"):
        program_export.export(tmp_path / "a.safetensors", "ase", tmp_path / "out")


@pytest.mark.parametrize("ensemble", ["nve", "npt"])
def test_productions_at_constant_energy_or_pressure_are_refused(ensembles, ensemble):
    start = InitialStructure(structures.ethanol()._replace(cell=9.0 * np.eye(3), pbc=np.ones(3, bool)))
    made = Material(b"", ensembles["direct"], start, None, {}, None, None, "", "")
    settings = productions.parse({"dynamics": {"ensemble": ensemble}, "model": "ensemble"}, None)
    with pytest.raises(ConfigError, match=rf"dynamics\.ensemble: got '{ensemble}'; allowed: nvt: .*not the gradient"):
        setup.prepare(settings, made)


def test_a_production_needs_forces_that_were_learnt(ensembles):
    alone = ensembles["gradient"]._replace(learnt_forces=False)
    made = Material(b"", alone, InitialStructure(structures.ethanol()), None, {}, None, None, "", "")
    with pytest.raises(ConfigError, match="one that has learnt forces for dynamics"):
        setup.prepare(productions.parse({"model": "ensemble"}, None), made)


def test_stress_is_no_target(ensembles, tmp_path):
    atoms = ase.Atoms("CH", [[0.0, 0, 0], [1.0, 0.2, 0]], cell=4.0 * np.eye(3), pbc=True)
    atoms.info |= {"REF_energy": 1.0, "REF_stress": np.zeros(6)}
    atoms.arrays["REF_forces"] = np.ones((2, 3))
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    settings = tiny_equiformer_v2((1, 6), forces="direct")
    registry.save(registry.initialize(settings, 0), tmp_path / "model.safetensors", {})
    raw = {"data": {"train": "a.xyz"}, "model": "model.safetensors", "targets": "energy+forces+stress"}
    with pytest.raises(ConfigError, match=r"targets: got 'energy\+forces\+stress'; allowed: targets without stress"):
        run.prepare(config.parse(raw), base=tmp_path)
