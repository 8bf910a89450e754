"""Functions that predict structures with all chains, in the memory and on the devices that there are."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
from jax.sharding import Mesh

from bayes_mlff.core.numbers import largest_divisor
from bayes_mlff.data.graph import Graph
from bayes_mlff.ensemble.linear import linearised, unspread
from bayes_mlff.ensemble.predictive import Predictive, combine
from bayes_mlff.ensemble.saved import contracted, flat_predictor
from bayes_mlff.models.config import ArchitectureConfig
from bayes_mlff.models.energetics import PredictFn, Prediction
from bayes_mlff.parallel.devices import shared_prediction
from bayes_mlff.posterior import energy_zero
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.sghmc.run import preferred_axis


def batch_predictor(
    predict: PredictFn,
    energy_sigma: float,
    stress_sigma: float | None = None,
    *,
    at_once: int | None = None,
    allow_single_chain: bool = False,
) -> Callable[..., Predictive]:
    """Make a function that predicts several structures with K sets of parameters.

    Args:
      predict: model with one set of flat parameters.
      energy_sigma: fixed standard deviation of the likelihood, eV.
      stress_sigma: the same for the stress, eV/Å³.
      at_once: largest number of sets of parameters that a device evaluates together; by default all, or
        one on a CPU, whose caches are too small for more.
      allow_single_chain: accept one set of parameters, see `predictive.combine`.

    Returns:
      `(params [c, p], graphs [b, ...], mesh=None) -> Predictive`; inside a function that runs on all devices of a
      mesh each evaluates its share of the parameters.
    """
    most = at_once or (1 if preferred_axis() == "map" else None)

    def predict_all(params: jax.Array, graphs: Graph) -> Prediction:
        chains = len(params)
        together = largest_divisor(chains, most or chains)
        if together == 1:
            return jax.lax.map(lambda chain: predict(chain, graphs), params)
        vectorised = jax.vmap(predict, in_axes=(0, None))
        if together == chains:
            return vectorised(params, graphs)
        groups = params.reshape(-1, together, params.shape[1])
        each = jax.lax.map(lambda group: vectorised(group, graphs), groups)
        return jax.tree.map(lambda x: x.reshape(chains, *x.shape[2:]), each)

    def evaluate(params: jax.Array, graphs: Graph, mesh: Mesh | None = None) -> Predictive:
        together = predict_all if mesh is None else shared_prediction(predict_all, mesh)
        prediction = together(params, graphs)
        return combine(
            prediction,
            energy_sigma=energy_sigma,
            stress_sigma=stress_sigma,
            allow_single_chain=allow_single_chain,
        )

    return evaluate


def ensemble_predictor(
    predict: PredictFn,
    energy_sigma: float,
    stress_sigma: float | None = None,
    *,
    at_once: int | None = None,
) -> Callable[..., Predictive]:
    """`batch_predictor` for one structure: `(params [c, p], graph, mesh=None) -> Predictive` with a batch axis of 1."""
    return of_one(batch_predictor(predict, energy_sigma, stress_sigma, at_once=at_once))


def of_one(evaluate: Callable[..., Predictive]) -> Callable[..., Predictive]:
    """A predictor of several structures as one of a single structure, `(params, graph, mesh=None) -> Predictive`."""

    def evaluate_one(params: jax.Array, graph: Graph, mesh: Mesh | None = None) -> Predictive:
        return evaluate(params, jax.tree.map(lambda x: x[None], graph), mesh)

    return evaluate_one


def on_devices(ways: Sequence[Callable[..., Predictive]], mesh: Mesh) -> list[Callable[..., Predictive]]:
    """Predictors that split the chains over the devices of a mesh if it has several."""
    return [way if mesh.size == 1 else partial(way, mesh=mesh) for way in ways]


def linear_predictor(
    architecture: ArchitectureConfig, likelihood: Likelihood, *, with_stress: bool, with_forces: bool
) -> Callable[..., Predictive]:
    """Make a function that predicts several structures with samples around a centre, to first order; see `linearised`.

    Args:
      architecture: of the model with p weights.
      likelihood: fixed standard deviations.
      with_stress: predict the stress.
      with_forces: also the spread of forces and stress; without it their σ is NaN.

    Returns:
      `(params [1 + k, p + 1], graphs [b, ...], mesh=None) -> Predictive`, of samples of `energy_zero`; a mesh must have
      one device.
    """
    few, contract = (architecture, None) if with_forces else contracted(architecture)
    predict = energy_zero.with_zero(flat_predictor(few, with_stress=with_stress, with_slopes=not with_forces))
    each = linearised(predict, with_forces=with_forces, contract=contract and energy_zero.beside(contract))

    def evaluate(params: jax.Array, graphs: Graph, mesh: Mesh | None = None) -> Predictive:
        assert mesh is None or mesh.size == 1
        found = combine(each(params, graphs), **likelihood._asdict())
        return found if with_forces else unspread(found)

    return evaluate
