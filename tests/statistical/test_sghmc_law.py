"""The sampler against its exact law: on a quadratic potential the recursion is linear at every step size.

16 384 independent chains start at rest and run until the start is forgotten (0.9^300 < 1e-13 in variance),
then mean and variance of every coordinate are compared with a discrete Lyapunov equation. |z| < 4.5 fails by
chance with probability 6.8e-6 a comparison, below 2e-3 for all comparisons of this file; seeds are fixed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from bayes_mlff.sghmc.precondition import Preconditioner, amsgrad, fixed, identity
from bayes_mlff.sghmc.run import chain_runner, init_chains
from bayes_mlff.sghmc.transform import sghmc
from bayes_mlff.testing.sampler_battery import (
    BOUND,
    CENTRE,
    CHAINS,
    N_DATA,
    STIFFNESS,
    columns,
    gaussian,
    largest_z,
    vector,
)

STEPS = 300
MASS = {"a": np.array([0.7, 0.3]), "b": np.array([[2.5]])}


def quadratic(params, key, scale):
    """The target; the data is a factor on the gradient, one unless the test plants a fault."""
    potential, grads = gaussian(params, key, None)
    return potential, jax.tree.map(lambda g: scale * g, grads)


def covariance(stiffness, step, friction, temperature):
    """Stationary covariance of (θ, p) for θ <- θ + γM⁻¹p, p <- (1-α)p - αkθ + αξ."""
    gain = np.array([[1.0, step], [0.0, 1.0]])
    transition = gain @ np.array([[1.0, 0.0], [-friction * stiffness, 1.0 - friction]])
    kick = gain @ np.array([[0.0], [friction * np.sqrt(2.0 * temperature / (step * N_DATA))]])
    return solve_discrete_lyapunov(transition, kick @ kick.T)


def sample(preconditioner, *, step_size=0.4, temperature=1.0, friction=0.1, fault=1.0, mass_state=None, seed=0):
    transform = sghmc(step_size, temperature=temperature, friction=friction, preconditioner=preconditioner)
    params = jax.tree.map(lambda c: jnp.tile(jnp.asarray(c), (CHAINS, *[1] * c.ndim)), CENTRE)
    state = init_chains(params, jax.random.key(seed), transform)
    if mass_state is not None:
        tiled = jax.tree.map(lambda x: jnp.tile(x, (CHAINS, *[1] * x.ndim)), mass_state)
        state = state._replace(sampler=state.sampler._replace(mass=tiled))
    run = chain_runner(quadratic, transform, n_steps=STEPS, thin=STEPS)
    return run(params, state, jnp.asarray(fault), jnp.asarray(N_DATA))


def check_law(result, inverse_mass, *, step_size=0.4, temperature=1.0, friction=0.1):
    """Worst z over θ and p of all coordinates."""
    params, state, _ = result
    laws = [
        covariance(k, step_size * m, friction, temperature)
        for k, m in zip(vector(STIFFNESS), vector(inverse_mass), strict=True)
    ]
    z_theta = largest_z(columns(params), vector(CENTRE), np.array([law[0, 0] for law in laws]))
    z_momentum = largest_z(columns(state.sampler.momentum), 0.0, np.array([law[1, 1] for law in laws]))
    return max(z_theta, z_momentum)


ONES = jax.tree.map(np.ones_like, CENTRE)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize(("mass", "inverse"), [(identity(), ONES), (fixed(MASS), MASS)], ids=["identity", "fixed"])
def test_stationary_law(mass, inverse, temperature):
    result = sample(mass, temperature=temperature, seed=1)
    assert check_law(result, inverse, temperature=temperature) < BOUND


def test_stationary_law_far_from_the_small_step_limit():
    """Large friction and step: the finite-step term shifts the stiffest variance by a fifth."""
    settings = {"friction": 0.5, "step_size": 1.0}
    result = sample(fixed(ONES), seed=2, **settings)
    assert check_law(result, ONES, **settings) < BOUND
    assert covariance(3.0, 1.0, 0.5, 1.0)[0, 0] * N_DATA * 3.0 > 1.2


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_stationary_law_with_frozen_amsgrad_mass(temperature):
    """The mass of a short adaptive run, frozen and given to all chains, is that of a constant mass."""
    mass = amsgrad(beta=0.9, eps=0.1, freeze_after=20)
    state = mass.init(CENTRE)
    key = jax.random.key(3)
    for i in range(25):
        scale = 1.0 + float(jax.random.uniform(jax.random.fold_in(key, i)))
        state = mass.update(jax.tree.map(lambda c, s=scale: s * jnp.asarray(c), CENTRE), state)
    inverse = mass.inverse_mass(state, CENTRE)
    result = sample(mass, temperature=temperature, mass_state=state, seed=4)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(result[1].sampler.mass), strict=True):
        np.testing.assert_array_equal(np.asarray(after), np.broadcast_to(before, after.shape))
    assert check_law(result, inverse, temperature=temperature) < BOUND


@pytest.mark.parametrize("fault", [0.9, 1.1])
def test_sees_ten_per_cent_gradient_error(fault):
    assert check_law(sample(fixed(MASS), fault=fault, seed=1), MASS) > BOUND


def test_sees_temperature_on_the_standard_deviation():
    """A thermostat that scales the noise by T has the variance of temperature T²."""
    assert check_law(sample(fixed(MASS), temperature=0.25**2, seed=1), MASS, temperature=0.25) > 10 * BOUND


def test_sees_a_forgotten_mass_in_the_noise():
    """Noise of unit mass with a displacement of mass M⁻¹: same as a temperature of M⁻¹ a coordinate."""
    assert check_law(sample(fixed(MASS), seed=1), ONES) > 10 * BOUND


@pytest.mark.parametrize(("friction", "step_size"), [(0.1, 0.4), (0.5, 1.0)])
def test_lyapunov_equals_closed_form(friction, step_size):
    """The docstrings' variance and kinetic temperature, T/(1 - αγM⁻¹k/(2(2-α)))."""
    for stiffness in vector(STIFFNESS):
        law = covariance(stiffness, step_size, friction, 0.7)
        hot = 0.7 / (1.0 - friction * step_size * stiffness / (2.0 * (2.0 - friction)))
        np.testing.assert_allclose(law[0, 0] * N_DATA * stiffness, hot, rtol=1e-10)
        kinetic = (2.0 - friction) / (2.0 * friction) * N_DATA * step_size * law[1, 1]
        np.testing.assert_allclose(kinetic, hot, rtol=1e-10)


@pytest.mark.parametrize("mass", [identity(), fixed(MASS)], ids=["identity", "fixed"])
def test_kinetic_temperature_of_the_run(mass: Preconditioner):
    """Mean over chains and coordinates against the closed form."""
    _, _, info = sample(mass, temperature=0.7, seed=5)
    inverse = vector(mass.inverse_mass(mass.init(CENTRE), CENTRE))
    hot = 0.7 / (1.0 - 0.1 * 0.4 * inverse * vector(STIFFNESS) / (2.0 * 1.9))
    error = np.sqrt(2.0 * (hot**2).sum() / CHAINS) / hot.size
    assert abs(np.asarray(info.kinetic_temperature).mean() - hot.mean()) < BOUND * error
    assert np.asarray(info.finite).all()


def test_bias_correction_only_rescales_the_displacement():
    """With T = 0 and a constant unit gradient every corrected step is exactly γ."""
    transform = sghmc(0.2, temperature=0.0, friction=0.3, preconditioner=identity(), bias_correction=True)
    params = jnp.zeros([2])
    state = transform.init(params)
    for i in range(5):
        updates, state = transform.update(jnp.ones([2]), state, params, key=jax.random.key(i), n_data=1)
        np.testing.assert_allclose(np.asarray(updates), -0.2, rtol=1e-12)
