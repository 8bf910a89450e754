"""A model of two weights with labels, whose posterior is known."""

import jax.numpy as jnp
import numpy as np
from scipy import stats

from bayes_mlff.data.graph import Graph
from bayes_mlff.models.energetics import Prediction
from bayes_mlff.posterior.chains import otf_chains
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.posterior.training_set import allocate, append

N, K = 4, 3


RNG = np.random.default_rng(0)


SIGMAS = Likelihood(energy_sigma=0.3, stress_sigma=0.02)


def toy_graph(seed, dtype=jnp.float64):
    rng = np.random.default_rng(seed)
    return Graph(
        positions=jnp.asarray(rng.normal(size=(N, 3)), dtype),
        cell=jnp.eye(3, dtype=dtype),
        species=jnp.zeros([N], jnp.int32),
        node_mask=jnp.asarray([True, True, True, False]),
        neighbors=jnp.zeros([N, K], jnp.int32),
        shifts=jnp.zeros([N, K, 3], dtype),
        edge_mask=jnp.zeros([N, K], bool),
    )


def toy_predict(params, graphs):
    """E = a Σ|r|², F = -2ar, S = a·1, σ = exp(b): everything depends on params [2]."""
    mask = graphs.node_mask[..., None]
    a, b = params[0], params[1]
    energy = a * jnp.sum(jnp.where(mask, graphs.positions**2, 0.0), axis=(1, 2))
    forces = jnp.where(mask, -2.0 * a * graphs.positions, 0.0)
    stress = a * jnp.broadcast_to(jnp.eye(3, dtype=a.dtype), graphs.cell.shape)
    return Prediction(energy, forces, stress, jnp.exp(b) * jnp.ones_like(graphs.node_mask, a.dtype))


def filled(count, capacity, dtype=jnp.float64, with_stress=True):
    training_set = allocate(toy_graph(0, dtype), capacity)
    for i in range(count):
        rng = np.random.default_rng(100 + i)
        stress = rng.normal(size=(3, 3)) * 0.1 if with_stress else None
        graph = toy_graph(i, dtype)
        forces = -1.4 * np.asarray(graph.positions) + 0.3 * rng.normal(size=(N, 3))
        training_set = append(training_set, graph, float(rng.normal()), forces, stress)
    return training_set


PARAMS = jnp.asarray([0.4, -0.3])


PRIOR = GaussianPrior(jnp.asarray([0.1, 0.0]), 0.5)


def reference_log_p(params, training_set, i):
    """log p(y_i | x_i, θ) by scipy."""
    a, sigma = params[0], np.exp(params[1])
    r = np.asarray(training_set.graphs.positions)[i, :3]
    total = stats.norm.logpdf(float(training_set.energy[i]), a * (r**2).sum(), SIGMAS.energy_sigma)
    total += stats.norm.logpdf(np.asarray(training_set.forces)[i, :3], -2 * a * r, sigma).sum()
    return total + stats.norm.logpdf(np.asarray(training_set.stress)[i], a * np.eye(3), SIGMAS.stress_sigma).sum()


def reference_potential(params, training_set, count):
    log_prior = -0.5 * (((params - np.asarray(PRIOR.mean)) / PRIOR.scale) ** 2).sum()
    return -log_prior / count - np.mean([reference_log_p(params, training_set, i) for i in range(count)])


def small_chains(predict, **options):
    settings = {"step_size": 1e-2, "cold_steps": 20, "ramp_steps": 10, "thin": 20} | options
    return otf_chains(predict, PRIOR, SIGMAS, **settings)
