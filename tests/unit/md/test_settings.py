"""Keys of dynamics that its ensemble does not use are known, so that they can be said."""

import pytest

from bayes_mlff.md.settings import DynamicsConfig

EVERYTHING = {
    "friction_per_fs": 0.02,
    "thermostat_time_fs": 200.0,
    "barostat": {"time_fs": 500.0},
}


@pytest.mark.parametrize(
    ("change", "unused"),
    [
        ({"ensemble": "nve", "thermostat": "bussi"},
         ["thermostat", "friction_per_fs", "thermostat_time_fs", "barostat.time_fs"]),
        ({}, ["thermostat_time_fs", "barostat.time_fs"]),
        ({"thermostat": "bussi"}, ["friction_per_fs", "barostat.time_fs"]),
        ({"ensemble": "npt"}, ["thermostat_time_fs"]),
        ({"ensemble": "npt", "thermostat": "bussi", "temperature_k": 400.0}, ["friction_per_fs"]),
        ({"temperature_k": 400.0, "schedule": [{"duration_ps": 1.0, "temperature_k": 350.0}]},
         ["temperature_k", "thermostat_time_fs", "barostat.time_fs"]),
    ],
)  # fmt: skip
def test_keys_that_these_dynamics_do_not_use(change, unused):
    assert DynamicsConfig(**(EVERYTHING | change)).unused == tuple(f"dynamics.{key}" for key in unused)
    assert DynamicsConfig(**change | {"temperature_k": 300.0, "thermostat": "langevin"}).unused == ()
