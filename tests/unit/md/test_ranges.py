"""Slips of a unit in thermostat and barostat are refused, with the range and a value that is taken."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk, fcc111

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.graph import volume
from bayes_mlff.data.structure import from_ase
from bayes_mlff.md import ranges
from bayes_mlff.md.integrators import initial_state
from bayes_mlff.otf import config, systems
from bayes_mlff.otf.integrator import make_integrator

ENGINE = {"name": "ase", "calculator": "ase.calculators.emt:EMT", "stress": True}


def parsed(barostat=None, **dynamics):
    npt = {"ensemble": "npt", "barostat": barostat or {}} | dynamics
    return config.parse({"structure": "cu.vasp", "engine": ENGINE, "dynamics": npt})


def refused(**settings):
    with pytest.raises(ConfigError) as caught:
        parsed(**settings)
    return caught.value


@pytest.mark.parametrize("value", [45.0, 4.5e-5, 1e-6, 5.1, 1e12])
def test_a_compressibility_that_no_material_has(value):
    error = refused(barostat={"compressibility_per_gpa": value})
    assert "compressibility_per_gpa" in str(error)
    assert "0.0001 to 5 1/GPa" in str(error) and "water 0.45" in str(error)


@pytest.mark.parametrize("value", [1e5, -1e5, 1001.0, -101.0, 1.01325e5])
@pytest.mark.parametrize("where", ["pressure_gpa", "schedule.0.pressure_gpa", "schedule.0.end_pressure_gpa"])
def test_pressures_that_nothing_bears(value, where):
    segment = {"duration_ps": 1.0, "temperature_k": 300.0}
    name = where.rpartition(".")[2]
    error = refused(**({name: value} if "." not in where else {"schedule": [segment | {name: value}]}))
    assert error.key == f"dynamics.{where}" and "-100 to 1000 GPa" in error.allowed


def test_every_pressure_in_the_range_is_taken():
    for value in (-100.0, 0.0, 1e-4, 1000.0):
        assert parsed(pressure_gpa=value).dynamics.pressure_gpa == value


@pytest.mark.parametrize(
    ("dynamics", "barostat"),
    [
        ({"timestep_fs": 1.0}, {"time_fs": 1.0}),
        ({"timestep_fs": 1.0}, {"time_fs": 9.9}),
        ({"timestep_fs": 1.0}, {"time_fs": 100.0, "compressibility_per_gpa": 0.45}),
        ({"timestep_fs": 1.0}, {"time_fs": 1000.0, "compressibility_per_gpa": 5.0}),
        ({"timestep_fs": 1.0, "pressure_gpa": 1000.0}, {"time_fs": 500.0}),
        ({"timestep_fs": 1.0, "pressure_gpa": -73.0}, {"time_fs": 37.0}),
    ],
)
def test_a_barostat_that_is_too_fast_names_a_time_that_is_not(dynamics, barostat):
    error = refused(barostat=barostat, **dynamics)
    assert error.key == "dynamics.barostat.time_fs"
    said = re.match(r"at least ([\d.e+]+) (fs|times timestep_fs)", error.allowed)
    assert said, error.allowed
    slower = float(said[1])
    assert slower > barostat["time_fs"]
    while True:
        try:
            parsed(barostat | {"time_fs": slower}, **dynamics)
            break
        except ConfigError as again:
            better = float(re.match(r"at least ([\d.e+]+) fs", again.allowed)[1])
            assert better > slower
            slower = better


def test_noise_that_moves_a_small_cell_too_far_is_refused():
    small = from_ase(bulk("Cu"))
    hot = parsed({"time_fs": 50.0, "compressibility_per_gpa": 0.1}, timestep_fs=1.0, temperature_k=2000.0)
    with pytest.raises(ConfigError, match=r"noise would change the volume by .*%") as caught:
        make_integrator(hot.dynamics, small)
    slower = float(re.match(r"at least ([\d.e+]+) fs", caught.value.allowed)[1])
    make_integrator(parsed({"time_fs": slower, "compressibility_per_gpa": 0.1}, timestep_fs=1.0,
                           temperature_k=2000.0).dynamics, small)  # fmt: skip
    make_integrator(hot.dynamics, from_ase(bulk("Cu").repeat(4)))


def test_the_hottest_of_a_schedule_counts():
    segments = [{"duration_ps": 1.0, "temperature_k": 10.0, "end_temperature_k": 2000.0}]
    hot = parsed({"time_fs": 50.0, "compressibility_per_gpa": 0.1}, timestep_fs=1.0, schedule=segments)
    with pytest.raises(ConfigError, match="2000 K"):
        make_integrator(hot.dynamics, from_ase(bulk("Cu")))


@pytest.mark.parametrize(
    ("dynamics", "key"),
    [
        ({"thermostat": "langevin", "friction_per_fs": 100.0}, "friction_per_fs"),
        ({"ensemble": "npt", "friction_per_fs": 5.0}, "friction_per_fs"),
        ({"thermostat": "bussi", "thermostat_time_fs": 0.1}, "thermostat_time_fs"),
        ({"ensemble": "npt", "thermostat": "bussi", "thermostat_time_fs": 0.1}, "thermostat_time_fs"),
    ],
)
def test_a_thermostat_that_forgets_the_velocities_in_a_step(dynamics, key):
    assert refused(**dynamics).key == f"dynamics.{key}"


def test_what_a_thermostat_does_not_use_is_not_looked_at():
    parsed(thermostat="bussi", friction_per_fs=100.0)
    parsed(thermostat="langevin", thermostat_time_fs=0.1)
    parsed({"time_fs": 1.0}, ensemble="nve")


@pytest.mark.parametrize(
    ("compressibility", "time_fs", "pressure"),
    [(5.0, 2500.0, 10.0), (1e-4, 10.0, 1000.0), (0.02, 1000.0, 1000.0), (0.02, 10.0, -10.0), (0.3, 150.0, -9.9)],
)
def test_at_the_edge_of_what_is_taken_no_volume_explodes(compressibility, time_fs, pressure):
    """Twenty steps of a harmonic lattice with the bulk modulus of copper: finite, and no step above a few percent."""
    settings = parsed(
        {"time_fs": time_fs, "compressibility_per_gpa": compressibility}, timestep_fs=1.0, pressure_gpa=pressure
    )
    atoms = bulk("Cu", cubic=True)
    integrator = make_integrator(settings.dynamics, from_ase(atoms))
    start = jnp.asarray(atoms.cell.array)
    state = initial_state(jnp.asarray(atoms.positions), atoms.numbers, 300.0, jax.random.key(0), cell=start)

    @jax.jit
    def step(state):
        state = integrator.begin(state)
        strain = jnp.log(volume(state.cell) / volume(start))
        stress = 140.0 * units.GPA * strain * jnp.eye(3)
        return integrator.finish(state, jnp.zeros_like(state.position), stress)

    sizes = [float(volume(start))]
    for _ in range(20):
        state = step(state)
        sizes.append(float(volume(state.cell)))
    steps = np.abs(np.diff(np.log(sizes)))
    assert np.isfinite(steps).all() and steps.max() < 0.1, steps


def test_built_in_settings_are_within_the_ranges():
    for system, profiles in systems.SYSTEMS.items():
        for profile in profiles:
            barostat = config.parse(systems.settings(system, profile)).dynamics.barostat
            assert ranges.COMPRESSIBILITY[0] < barostat.compressibility_per_gpa < ranges.COMPRESSIBILITY[1]


# -- free cell vectors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("free", [[], ["a", "a"], ["d"], ["A"], "ab", ["a", "b", "c", "a"], None, [True], {"a": True}])
def test_free_vectors_are_distinct_names(free):
    assert "free" in str(refused(barostat={"free": free}))


def test_free_vectors_have_one_order():
    assert parsed({"free": ["c", "a"]}).dynamics.barostat.free == ("a", "c")


def slab(**settings):
    atoms = fcc111("Cu", (2, 2, 2), vacuum=6.0, **settings)
    atoms.pbc = True
    return atoms


def test_a_held_vector_that_leans_is_refused_with_what_helps():
    atoms = slab()
    atoms.cell[2, 0] = 1.5
    with pytest.raises(ConfigError, match="perpendicular") as caught:
        make_integrator(parsed({"free": ["a", "b"]}).dynamics, from_ase(atoms))
    assert caught.value.key == "dynamics.barostat.free" and "°" in caught.value.allowed
    make_integrator(parsed({"free": ["a", "b"]}).dynamics, from_ase(slab()))
    with pytest.raises(ConfigError, match="perpendicular"):
        make_integrator(parsed({"free": ["a"]}).dynamics, from_ase(slab()))


def test_a_slab_that_does_not_repeat_along_its_vacuum_hears_what_to_do():
    atoms = slab()
    atoms.pbc = [True, True, False]
    with pytest.raises(ConfigError, match=r"periodic in three directions.*\[a, b\]"):
        make_integrator(parsed({"free": ["a", "b"]}).dynamics, from_ase(atoms))
