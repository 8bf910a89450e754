"""A barostat of one or two cell vectors against laws known exactly; the others stay as they are.

Statistical tests compare independent replicas with |z| < 4.5, false alarms 7e-6 each; keys are fixed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bayes_mlff.core import units
from bayes_mlff.data.graph import volume
from bayes_mlff.md.barostat import Span, cell_rescaling, span_of
from bayes_mlff.md.integrators import friction_thermostat, kinetic_energy, rescaling_thermostat
from bayes_mlff.md.schedule import constant
from tests.support.barostats import (
    GAS_ATOMS,
    GAS_KT,
    GAS_PRESSURE,
    SITES,
    crystal,
    lennard_jones,
    replicas,
    simulate,
    within,
)

TURN = Rotation.from_rotvec([0.4, -0.7, 0.5]).as_matrix()
"""Of a lattice that is along no axis."""

AB, C = np.array([True, True, False]), np.array([False, False, True])


def barostat(cell, free, motion="flexible", *, thermostat="langevin", timestep=1.0, time_fs=60.0, compressibility):
    kinds = {"langevin": friction_thermostat(timestep, 0.02), "bussi": rescaling_thermostat(timestep, 30.0)}
    return cell_rescaling(
        timestep,
        constant(300.0, GAS_PRESSURE),
        kinds[thermostat],
        time_fs=time_fs,
        compressibility_per_gpa=compressibility,
        cell=motion,
        span=span_of(cell, free),
    )


@pytest.mark.parametrize(
    ("free", "motion", "thermostat"),
    [(AB, "flexible", "langevin"), (AB, "isotropic", "bussi"), (C, "flexible", "bussi"), (C, "flexible", "langevin")],
)
def test_an_ideal_gas_keeps_its_law_of_area_or_length_and_its_work_theorem(free, motion, thermostat):
    """p(L) ∝ L^N exp(-P V/kT), V = L times what is held, is stationary; from there <exp(-Δ/kT)> = 1 as for d = 3."""
    count, rng, pressure = 3000, np.random.default_rng(1), GAS_PRESSURE * units.GPA
    unit = np.array([[1.0, 0.0, 0.0], [-0.5, 0.9, 0.0], [0.0, 0.0, 1.2]]) @ TURN
    first = rng.gamma(GAS_ATOMS + 1, GAS_KT / pressure, count)
    stretch = (first / abs(np.linalg.det(unit))) ** (1.0 / free.sum())
    cells = np.where(free[:, None], stretch[:, None, None] * unit, unit)
    states = replicas(np.zeros((GAS_ATOMS, 3)), np.eye(3), 300.0, count, 2, at_rest=thermostat == "bussi")
    states = states.set(cell=jnp.asarray(cells))
    before = np.asarray(jax.vmap(kinetic_energy)(states))
    integrator = barostat(unit, free, motion, thermostat=thermostat, compressibility=1.0 / GAS_PRESSURE)
    _, seen = simulate(integrator, lambda r, h: 0.0 * jnp.sum(r), states, looks=1, every=160)
    cell = np.asarray(seen.cell)[:, 0]
    np.testing.assert_array_equal(cell[:, ~free], np.broadcast_to(unit[~free], (count, (~free).sum(), 3)))
    reduced = pressure * np.asarray(volume(seen.cell))[:, 0] / GAS_KT
    # Velocity rescaling keeps the directions of momenta, so that a gas along one vector never forgets all.
    most = 0.3 if thermostat == "langevin" else 0.5
    assert np.corrcoef(reduced, first)[0, 1] < most, "the volumes have hardly moved"
    within(reduced, GAS_ATOMS + 1, allowed=0.02 * (GAS_ATOMS + 1))
    within((reduced - reduced.mean()) ** 2, GAS_ATOMS + 1, allowed=0.04 * (GAS_ATOMS + 1))
    change = (np.asarray(seen.conserved)[:, 0] - before) / GAS_KT
    assert change.std() < 0.6
    within(np.exp(-change), 1.0)


# -- an elastic sheet: exact shapes --------------------------------------------------------------------------------

STIFFNESS, SIDE, HEIGHT = 40.0 * GAS_KT, 8.0, 6.0


def elastic(cell):
    """Depends on the metric of the first two vectors."""
    metric = cell[:2] @ cell[:2].T / SIDE**2 - jnp.eye(2, dtype=cell.dtype)
    return 0.5 * STIFFNESS * jnp.sum(metric**2)


def exact_shapes(motion):
    """Means of `features`, by quadrature over x11, x22 and x21 of the triangular sheet in units of its side.

    Density L^(1-2) exp(-(U + P V)/kT) dh with dh = x11 dx for a sheet without its rotation, times L^N of the atoms;
    for an orthorhombic one L exp(...)  dx11 dx22/(x11 x22), times L^N.
    """
    side = np.linspace(0.5, 1.5, 81)
    x, y, skew = np.meshgrid(side, side, np.linspace(-0.6, 0.6, 81) if motion == "flexible" else [0.0], indexing="ij")
    cell = np.zeros((*x.shape, 3, 3))
    cell[..., 0, 0], cell[..., 1, 1], cell[..., 1, 0] = x, y, skew
    metric = cell[..., :2, :2] @ np.swapaxes(cell[..., :2, :2], -1, -2) - np.eye(2)
    energy = 0.5 * STIFFNESS * np.sum(metric**2, axis=(-2, -1)) + GAS_PRESSURE * units.GPA * SIDE**2 * HEIGHT * x * y
    measure = x / (x * y) if motion == "flexible" else 1.0
    weight = measure * (x * y) ** len(SITES) * np.exp(-(energy - energy.min()) / GAS_KT)
    return np.average(features(cell).reshape(-1, 6), axis=0, weights=weight.ravel())


def features(cell):
    x, y, skew = cell[..., 0, 0], cell[..., 1, 1], cell[..., 1, 0]
    return np.stack([np.log(x), np.log(x) ** 2, np.log(y), np.log(y) ** 2, skew, skew**2], axis=-1)


@pytest.mark.parametrize("motion", ["flexible", "orthorhombic"])
def test_the_shapes_of_an_elastic_sheet_follow_their_exact_law(motion):
    start = np.diag([SIDE, SIDE, HEIGHT])
    mobility = 0.02 * 2.0 * SIDE**2 * HEIGHT / (4.0 * STIFFNESS)
    integrator = barostat(start, AB, motion, timestep=2.0, time_fs=100.0, compressibility=mobility * 50.0 * units.GPA)
    states = replicas(SITES @ start, start, 300.0, 1500, 6, at_rest=False)
    _, seen = simulate(integrator, lambda r, h: elastic(h) + 0.0 * jnp.sum(r), states, looks=3, every=170)
    cell = np.asarray(seen.cell)[:, 1:] / SIDE
    assert np.abs(cell[..., 0, 1]).max() < 1e-9, "the cell has turned"
    np.testing.assert_array_equal(np.asarray(seen.cell)[..., 2, :], np.broadcast_to(start[2], (1500, 3, 3)))
    found, expected = features(cell).mean(axis=1), exact_shapes(motion)
    if motion == "orthorhombic":
        assert not cell[..., 1, 0].any()
        found, expected = found[:, :4], expected[:4]
    within(found, expected, allowed=0.02 * np.abs(expected) + 2e-4)


# -- a crystal -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("free", [AB, C, np.array([True, False, True])])
def test_held_vectors_stay_and_the_conserved_energy_too(free):
    """In single precision; the spread of the conserved energy falls with the time step as with all vectors free."""
    spread = []
    position, cell = (x.astype(np.float32) for x in crystal(5.2))
    for timestep in (8.0, 4.0):
        integrator = cell_rescaling(
            timestep,
            constant(60.0, 0.1),
            rescaling_thermostat(timestep, 100.0),
            time_fs=200.0,
            compressibility_per_gpa=0.5,
            span=span_of(cell, free),
        )
        states = replicas(position, cell, 60.0, 12, 8)
        final, seen = simulate(integrator, lennard_jones, states, looks=2, every=int(1200 / timestep))
        moved = np.asarray(final.cell)
        np.testing.assert_array_equal(moved[:, ~free], np.broadcast_to(cell[~free], moved[:, ~free].shape))
        assert np.ptp(moved[:, free], axis=0).max() > 0.02
        assert np.abs(moved[:, free][..., ~free]).max() == 0.0, "a free vector has left its span"
        conserved = np.asarray(seen.conserved)
        spread.append(np.sqrt(np.mean((conserved[:, 1] - conserved[:, 0]) ** 2)) / (units.KB * 60.0))
    assert spread[1] < 0.4 and spread[0] > 1.6 * spread[1]


def test_a_strain_along_a_held_axis_multiplies_by_exactly_one():
    """A slab that nothing pushes along z: coordinates and momenta along z stay bit for bit."""
    position, cell = (x.astype(np.float32) for x in crystal(5.2))
    states = replicas(position, cell, 60.0, 2, 8)
    states = states.set(momentum=states.momentum.at[:, :, 2].set(0.0))
    flat = cell_rescaling(
        2.0, constant(60.0, 0.1), rescaling_thermostat(2.0, 100.0), time_fs=200.0, compressibility_per_gpa=0.5,
        span=span_of(cell, AB),
    )  # fmt: skip
    final, _ = simulate(flat, lambda r, h: 0.1 * jnp.sum(r[:, :2] ** 2) + elastic(h), states, looks=1, every=160)
    np.testing.assert_array_equal(np.asarray(final.position)[..., 2], np.asarray(states.position)[..., 2])
    assert not np.asarray(final.momentum)[..., 2].any()
    assert np.ptp(np.asarray(final.cell)[:, 0, 0]) > 0.0


def test_a_sheet_along_no_axis_keeps_its_plane_and_the_direction_of_its_first_vector():
    position, cell = crystal(5.2)
    integrator = cell_rescaling(
        4.0, constant(60.0, 0.1), rescaling_thermostat(4.0, 100.0), time_fs=200.0, compressibility_per_gpa=0.5,
        span=span_of(cell @ TURN, AB),
    )  # fmt: skip
    final, _ = simulate(
        integrator, lennard_jones, replicas(position @ TURN, cell @ TURN, 60.0, 4, 8), looks=1, every=400
    )
    np.testing.assert_array_equal(np.asarray(final.cell)[:, 2], np.broadcast_to((cell @ TURN)[2], (4, 3)))
    moved = np.asarray(final.cell) @ TURN.T
    assert np.abs(moved[:, 0, 1:]).max() < 1e-12 and np.abs(moved[:, 1, 2]).max() < 1e-12
    assert np.abs(moved[:, 1, 0]).max() > 1e-3, "nothing has sheared"


def test_a_span_of_all_three_is_no_span():
    """The same numbers, but for rounding, come out of the formulas of a span and of those without."""
    assert span_of(np.eye(3), np.ones(3, bool)) is None
    states = replicas(*crystal(5.2), 60.0, 2, 8)
    finals = []
    everything = Span(np.ones(3, bool), np.eye(3), np.zeros(3))
    for span in (None, everything):
        integrator = cell_rescaling(
            4.0, constant(60.0, 0.1), rescaling_thermostat(4.0, 100.0), time_fs=400.0, compressibility_per_gpa=2.0,
            cell="orthorhombic", span=span,
        )  # fmt: skip
        final, _ = simulate(integrator, lennard_jones, states, looks=1, every=20)
        finals.append(final)
    np.testing.assert_allclose(finals[0].cell, finals[1].cell, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(finals[0].work, finals[1].work, atol=1e-9)


@pytest.mark.parametrize(
    ("cell", "free"),
    [
        (np.array([[1.0, 0, 0], [0, 1.0, 0], [0.2, 0, 1.0]]), AB),
        (np.array([[1.0, 0, 0], [0.5, 1.0, 0], [0, 0, 1.0]]), np.array([True, False, False])),
        (np.eye(3), np.zeros(3, bool)),
    ],
)
def test_held_vectors_that_a_strain_would_change_are_refused(cell, free):
    with pytest.raises(ValueError, match="perpendicular"):
        span_of(cell, free)
