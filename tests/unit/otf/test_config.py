"""Configuration: defaults, refusals that name the key, and a file that reads back as itself."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bayes_mlff.core import settings
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.otf import config, systems

MINIMAL = {"structure": "ethanol"}
HOT = {"until_ps": 1.0, "temperature_k": 900.0}


@pytest.mark.parametrize(("system", "profile"), [(s, p) for s, all_of_it in systems.SYSTEMS.items() for p in all_of_it])
def test_built_in_settings_are_valid_and_read_back(system, profile, tmp_path):
    parsed = config.parse(systems.settings(system, profile))
    path = tmp_path / "config.yaml"
    path.write_text(settings.dump(parsed))
    assert config.load(path) == parsed


def test_template_has_every_key_at_its_default():
    assert config.parse(yaml.safe_load(config.template())) == config.parse(MINIMAL)


@pytest.mark.parametrize(
    ("change", "key", "phrase"),
    [
        ({"sampler": {"step_sise": 1}}, "sampler.step_sise", "did you mean 'step_size'"),
        ({"thresold": "1 eV"}, "thresold", "did you mean 'threshold'"),
        ({"threshold": "0.5"}, "threshold", "kcal/mol"),
        ({"threshold": "-1 eV"}, "threshold", "positive"),
        ({"threshold": 5}, "threshold", "allowed: text"),
        ({"threshold": "5 foo"}, "threshold", "got '5 foo'; allowed: a positive number and a unit"),
        ({"dynamics": 3}, "dynamics", "allowed: a section, that is, a mapping of keys to values"),
        ({"sampler": {"chains": "many"}}, "sampler.chains", "allowed: a whole number"),
        ({"engine": {"name": "vasp"}}, "engine.name", "got 'vasp'; allowed: one of pyscf, ase, worker, gpaw, chgnet"),
        ({"engine": {"xc": "pbe"}}, "engine.name", "got None; allowed: one of pyscf, ase"),
        ({"dynamics": {"timestep_fs": 0}}, "dynamics.timestep_fs", "greater than 0"),
        ({"dynamics": {"ensemble": "nph"}}, "dynamics.ensemble", "nvt"),
        ({"dynamics": {"ensemble": "npt"}}, "dynamics.ensemble", "engine.stress"),
        ({"dynamics": {"pressure_gpa": 1.0}}, "dynamics.ensemble", "npt"),
        ({"dynamics": {"barostat": {"cell": "cubic"}}}, "dynamics.barostat.cell", "isotropic"),
        ({"dynamics": {"thermostat": "bussi", "temperature_k": 0}}, "dynamics.temperature_k", "more than 0"),
        ({"dynamics": {"ensemble": "langevin"}}, "dynamics.ensemble", "nvt, with dynamics.thermostat: langevin"),
        ({"dynamics": {"ensemble": "bussi"}}, "dynamics.ensemble", "nvt, with dynamics.thermostat: bussi"),
        ({"sampler": {"prior_scale": 0.2}}, "sampler.prior_scale", "prior.scale, to which"),
        (
            {"sampler": {"energy_sigma_fraction": 0.2}},
            "sampler.energy_sigma_fraction",
            "likelihood.energy_sigma_fraction, to which",
        ),
        ({"dynamics": {"ensemble": "nve", "schedule": [HOT]}}, "dynamics.schedule", "none in nve"),
        ({"dynamics": {"schedule": [HOT | {"pressure_gpa": 1}]}}, "dynamics.ensemble", "npt"),
        ({"dynamics": {"schedule": [HOT, HOT]}}, "dynamics.schedule.1.until_ps", "never goes backwards"),
        ({"dynamics": {"schedule": [HOT | {"duration_ps": 1}]}}, "dynamics.schedule.0", "one of duration_ps"),
        ({"dynamics": {"schedule": [{"temperature_k": 9}]}}, "dynamics.schedule.0", "one of duration_ps"),
        ({"dynamics": {"schedule": [HOT | {"until_ps": -1}]}}, "dynamics.schedule.0.until_ps", "greater than 0"),
        ({"dynamics": {"schedule": [HOT | {"temperature_k": 0}]}}, "dynamics.schedule.0.temperature_k", "greater"),
        ({"dynamics": {"schedule": [{"temprature_k": 9}]}}, "dynamics.schedule.0.temperature_k", "required"),
        ({"dynamics": {"schedule": [HOT | {"pressure": 9}]}}, "dynamics.schedule.0.pressure", "'pressure_gpa'"),
        ({"engine": {"name": "pyscf", "bassis": "sto-3g"}}, "engine.bassis", "did you mean 'basis'"),
        ({"sampler": {"steps": 500}}, "sampler.steps", "cold_steps + ramp_steps"),
        ({"sampler": {"chains": 1}}, "sampler.chains", "2"),
        (
            {"likelihood": {"energy_sigma_fraction": 0.2}, "calibration": {"a": 1.5, "b": 10, "decay": 0.5}},
            "likelihood.energy_sigma_fraction",
            "less than 0.195",
        ),
    ],
)
def test_mistakes_are_named(change, key, phrase):
    with pytest.raises(ConfigError) as caught:
        config.parse(MINIMAL | change)
    assert caught.value.key == key
    assert phrase in str(caught.value)


def test_missing_structure_is_named():
    with pytest.raises(ConfigError, match="structure"):
        config.parse({})


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=3))
def test_anything_but_a_mapping_is_refused(raw):
    with pytest.raises(ConfigError):
        config.parse(raw)


@given(st.dictionaries(st.text(max_size=12), st.integers() | st.text(max_size=5) | st.none(), max_size=3))
def test_arbitrary_sections_end_in_a_named_error_or_a_config(section):
    for name in ("sampler", "dynamics", "calibration", "engine"):
        key = _refused_key(MINIMAL | {name: section})
        assert key is None or key.startswith(name)


def _refused_key(raw):
    """Name the key that a configuration is refused for; None if it is valid."""
    try:
        config.parse(raw)
    except ConfigError as error:
        return error.key
    return None


def test_threshold_per_atom():
    parsed = config.parse(MINIMAL | {"threshold": "2 meV/atom"})
    assert parsed.threshold_ev(9) == pytest.approx(0.018)


def test_an_energy_without_a_unit_is_refused_with_what_is_allowed():
    with pytest.raises(ConfigError, match=r"^threshold: got '5'; allowed: a positive number and a unit: 'kcal/mol'"):
        config.parse({"structure": "ethanol", "threshold": "5"})
