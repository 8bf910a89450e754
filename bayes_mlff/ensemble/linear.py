"""Predictions of samples of the weights to first order around their centre, at the price of a few models for all.

The energy of a sample θ is E(θ0) + ∇E(θ0)·(θ - θ0), with one gradient with respect to the weights for all samples, from
the reverse pass that gives the forces. This is the predictive distribution that belongs to a Laplace approximation
(Immer et al. 2021, arXiv:2008.08400); evaluated beyond first order, samples that are wide along directions which no
label determines give useless energies. Where the energy depends on the weights through fewer numbers, θ - θ0 may be
taken along the function to these numbers first, which to first order is the same.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bayes_mlff.data.graph import Graph
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.models.energetics import PredictFn, Prediction


def linearised(
    predict: PredictFn, *, with_forces: bool, contract: Callable[[jax.Array], jax.Array] | None = None
) -> Callable[[jax.Array, Graph], Prediction]:
    """Make the function for the predictions of all samples.

    Args:
      predict: model of one set of flat weights [p]; without forces of every sample one with slopes.
      with_forces: forces and stress of every sample, which cost as much as a model each; without, they are those of the
        centre, and `unspread` must mark their σ as unknown.
      contract: function from the weights [p] to weights [q] on which alone the energies depend, and of which `predict`
        is; it is evaluated once where the parameters stay the same in a loop.

    Returns:
      `(params [1 + k, p], graphs [b, ...]) -> Prediction` with a leading axis [k]; the first row of the params is the
      centre. The force σ of the network is that of the centre.
    """

    def cheaply(params: jax.Array, graphs: Graph) -> Prediction:
        centre, shifts = params[0], params[1:] - params[:1]
        if contract is not None:
            centre, push = jax.linearize(contract, centre)
            shifts = jax.vmap(push)(shifts)
        found = predict(centre, graphs)
        assert found.slopes is not None
        change = jnp.matmul(shifts, found.slopes.T, precision="highest")
        each = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(shifts), *x.shape)), found._replace(slopes=None))
        return each._replace(energy=each.energy + change)

    def fully(params: jax.Array, graphs: Graph) -> Prediction:
        centre = params[0]
        found, tangent = jax.linearize(lambda w: predict(w, graphs)._replace(force_sigma=None), centre)
        change = jax.lax.map(lambda sample: tangent(sample - centre), params[1:])
        each = jax.tree.map(lambda x, by: x[None] + by, found, change)
        sigma = predict(centre, graphs).force_sigma
        return each._replace(force_sigma=jnp.broadcast_to(sigma, (len(params) - 1, *sigma.shape)))

    return fully if with_forces else cheaply


def unspread(predictive: Predictive) -> Predictive:
    """Moments without the σ of forces and stress, which are not known; NaN in their place."""

    def unknown(x: jax.Array) -> jax.Array:
        return jnp.full_like(x, jnp.nan)

    stress = predictive.stress_sigma
    return predictive._replace(
        forces_sigma=unknown(predictive.forces_sigma),
        forces_dof=unknown(predictive.forces_dof),
        stress_sigma=None if stress is None else unknown(stress),
    )
