"""The state of a run before its first label."""

import jax
import numpy as np

from bayes_mlff.otf import criteria
from bayes_mlff.otf.optimum import INITIAL_CAPACITY
from bayes_mlff.otf.problem import (
    Problem,
    begun_chains,
    first_dynamics,
    first_origin,
    first_parameters,
    learning_graph,
)
from bayes_mlff.otf.state import DeviceState, HostState, RunState
from bayes_mlff.posterior import training_set as training


def first_state(problem: Problem, key_md: jax.Array, key_params: jax.Array, key_chains: jax.Array) -> RunState:
    """Initial structure with initial velocities, different starting points of the chains, and no labels.

    Args:
      problem: constants of the run.
      key_md: random key for the initial velocities and the noise of the thermostat.
      key_params: random key for the starting points of the chains.
      key_chains: random key for the noise of the sampler.
    """
    spec, state, md = first_dynamics(problem, key_md)
    params = first_parameters(problem, key_params)
    device = DeviceState(
        md,
        md,
        state,
        params,
        begun_chains(problem, params, key_chains),
        training.allocate(learning_graph(problem, problem.structure, slack=1.1), INITIAL_CAPACITY),
        np.zeros(0, np.uint8),
    )
    return RunState(device, HostState(0, 0.0, criteria.priors(problem), spec, origin=first_origin(problem)))
