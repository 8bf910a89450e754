"""Settings of a production: what is taken from the run, and what is refused."""

import pytest

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.otf import config as run_configuration
from bayes_mlff.production import config
from bayes_mlff.production.config import ProductionConfig

HEATING = [
    {"duration_ps": 2.0, "temperature_k": 300.0, "end_temperature_k": 500.0},
    {"duration_ps": 4.0, "temperature_k": 500.0, "end_temperature_k": 700.0},
]


def run(**dynamics):
    return run_configuration.parse({"structure": "ethanol", "dynamics": dynamics, "guards": {"sigma_ratio": 7.0}})


def test_what_is_not_given_is_as_in_the_run_at_its_end():
    made = config.parse({}, run(duration_ps=4.0, timestep_fs=0.25, friction_per_fs=0.02, schedule=HEATING))
    assert made.dynamics.temperature_k == pytest.approx(600.0)
    assert (made.dynamics.timestep_fs, made.dynamics.friction_per_fs) == (0.25, 0.02)
    assert made.dynamics.schedule == () and made.dynamics.duration_ps == 10.0
    assert made.guards.sigma_ratio == 7.0
    before = made.equilibration
    assert before is not None and before.ensemble == "nvt" and before.duration_ps == config.EQUILIBRATION_PS
    assert (before.temperature_k, before.timestep_fs) == (made.dynamics.temperature_k, 0.25)
    assert config.parse({}, None).replicas == 3


def test_what_is_given_counts():
    raw = {"dynamics": {"ensemble": "nve", "timestep_fs": 0.2}, "equilibration": {"timestep_fs": 1.0}}
    made = config.parse(raw | {"temperatures_k": [100.0, 200.0]}, run(ensemble="nvt"))
    assert made.dynamics.ensemble == "nve" and made.replicas == 2
    assert made.equilibration is not None and made.equilibration.timestep_fs == 1.0
    assert [made.of_replica(made.equilibration, i).temperature_k for i in range(2)] == [100.0, 200.0]
    assert [s.temperature_k[0, 0] for s in config.schedules_of(made, made.equilibration)] == [100.0, 200.0]
    assert config.parse({"equilibration": None}, run()).equilibration is None
    again = ProductionConfig.model_validate(made.model_dump(mode="json"))
    assert again == made


@pytest.mark.parametrize(
    ("raw", "key", "allowed"),
    [
        ({"replicas": 3, "temperatures_k": [300.0, 400.0]}, "temperatures_k", "one for each of the 3 replicas"),
        ({"temperatures_k": [3.0, 4.0], "dynamics": {"schedule": HEATING}}, "temperatures_k", "null"),
        ({"on_uncertain": "ask"}, "on_uncertain", "'warn', 'stop' or 'label'"),
        ({"equilibration": {"friction_per_fs": 9.0}}, "equilibration.friction_per_fs", "at most"),
        ({"dynamics": {"friction_per_fs": 9.0}}, "dynamics.friction_per_fs", "at most"),
        ({"dynamics": {"ensemble": "nve", "pressure_gpa": 1.0}}, "dynamics.ensemble", "npt"),
        ({"equilibration": None, "dynamics": {"velocities": "file"}}, "dynamics.velocities", "draw with several"),
        ({"replicas": 0}, "replicas", "greater than or equal to 1"),
        ({"supercell": [2, 2]}, "supercell.2", "required"),
        ({"seed": 2**32 - 1}, "seed", "at most"),
        ({"repplicas": 2}, "repplicas", "did you mean 'replicas'"),
        ({"threshold": "5"}, "threshold", "kcal/mol"),
    ],
)
def test_bad_settings_are_refused_by_name(raw, key, allowed):
    with pytest.raises(ConfigError) as caught:
        config.parse(raw, run())
    assert caught.value.key == key and allowed in caught.value.allowed
