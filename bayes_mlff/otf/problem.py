"""Functions and constants of a run, made once from the configuration."""

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core import units
from bayes_mlff.data import neighbors
from bayes_mlff.data import origin as origins
from bayes_mlff.data.graph import Graph
from bayes_mlff.data.neighbors import NeighborSpec, NeighborState, species_index
from bayes_mlff.data.origin import Origin
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble.energy_scale import EnergyScale
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.ensemble.triggers import Statistic
from bayes_mlff.md.chunk import RunChunk, dynamics_budget, make_chunk
from bayes_mlff.md.integrators import Integrator, MDState, initial_state
from bayes_mlff.md.predictors import ensemble_predictor
from bayes_mlff.md.vacuum import refuse_vacuum
from bayes_mlff.models import presets
from bayes_mlff.models.energetics import PredictFn, Prediction, predictor
from bayes_mlff.models.force_sigma import SIGMA_UNIT
from bayes_mlff.models.layers import last_sigma_bias
from bayes_mlff.models.registry import Potential
from bayes_mlff.otf import motion as motions
from bayes_mlff.otf import optimum, regions
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.integrator import make_integrator, refuse_direct_forces
from bayes_mlff.otf.motion import Motion
from bayes_mlff.parallel.devices import LOW_MEMORY, ChainDevices, FirstThatFits, chain_mesh
from bayes_mlff.posterior import energy_zero, laplace
from bayes_mlff.posterior.chains import OtfChains, otf_chains
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.noise_levels import noise_levels, window
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.posterior.transfer import (
    around_prior_mean,
    first_step_size,
    prior_mean,
    prior_scale,
    stated_prior,
    stated_sampler,
)
from bayes_mlff.runs.recorder import Recording
from bayes_mlff.sghmc.run import ChainAxis, ChainState, Info, preferred_axis

GROUPS: Final[dict[ChainAxis, tuple[int, ...]]] = {"vmap": (4, 2, 1), "map": ()}
"""Alternatives for dynamics (chains evaluated together) if the preferred way, the key, needs too much memory."""


class Problem(NamedTuple):
    """Functions and constants of a run."""

    config: RunConfig  # with defaults from the model's preset, see `stated`
    structure: Structure  # initial structure
    potential: Potential
    threshold_ev: float  # largest acceptable error of the total energy, eV
    energy_sigma_ev: float  # constant σ of the total energy in the likelihood, eV
    isolated_ev: float  # energy of the isolated atoms of the pretrained model, see `scale`
    prior: GaussianPrior  # over flat parameters [p]
    pretrained: jax.Array  # [1, p + 1], a sample of `posterior.energy_zero`
    predict: PredictFn  # of samples [p + 1]
    evaluate: Callable[..., Predictive]  # (samples [c, p + 1], graph) -> Predictive; see `in_full`
    low_memory_evaluate: tuple[Callable[..., Predictive], ...]  # the same with decreasing memory and increasing time
    chains: OtfChains
    low_memory_chains: tuple[OtfChains, ...]  # the same for `chains`
    integrator: Integrator
    with_stress: bool  # whether predictions and likelihood include the stress
    motion: Motion  # masses, and initial momenta if they are not drawn at random
    velocities: np.ndarray | None = None  # [n, 3] Å/fs of the structure's file; None: it has none
    further: tuple[Statistic, ...] = ()  # of the triggers that the configuration lists
    in_full: Callable[..., Predictive] | None = None  # `evaluate` with σ of the forces, if that leaves them out
    around: laplace.Sample | None = None  # samples around an optimum; None: the chains are the samples

    def scale(self, offset_ev: float = 0.0) -> EnergyScale:
        """Energy scales, with the offset from the first label."""
        return EnergyScale(self.isolated_ev, offset_ev)

    @property
    def stress_sigma(self) -> float | None:
        """Constant σ of a stress component in the likelihood, eV/Å³; None where no stress is predicted."""
        return stress_sigma_ev_a3(self.config, with_stress=self.with_stress)

    @property
    def masses(self) -> np.ndarray:
        """Masses of the atoms [n], amu."""
        return self.motion.masses

    def positions(self, local: np.ndarray, cell: np.ndarray, origin: Origin) -> np.ndarray:
        """Positions of the atoms, Å, float64; fixed coordinates are exactly those of the structure's file.

        Args:
          local: [..., n, 3] Å, positions in the dynamics, relative to `origin`.
          cell: [..., 3, 3] Å, cell at that time.
          origin: origin of these positions.
        """
        return motions.everywhere(self.structure, local, cell, origin)


def stated(config: RunConfig, potential: Potential) -> RunConfig:
    """The configuration as stored in the run directory: missing values are filled with those of the model's preset.

    Raises:
      ConfigError: if the chains have too few steps for the preset, or the energy zero is to be fitted and cannot be.
    """
    chosen = presets.of(potential)
    prior = stated_prior(config.prior, chosen)
    sampler = stated_sampler(config.sampler, chosen, warm=config.posterior == "chains")
    obstacle = "a minibatch of one label has no differences" if sampler.batch == 1 else None
    zero = energy_zero.decided(config.likelihood.energy_zero, obstacle)
    likelihood = config.likelihood.model_copy(update={"energy_zero": zero})
    return config.model_copy(update={"prior": prior, "sampler": sampler, "likelihood": likelihood})


def prepare(
    config: RunConfig,
    structure: Structure,
    potential: Potential,
    *,
    velocities: np.ndarray | None = None,
    energy_sigma_ev: float | None = None,
) -> Problem:
    """Build the functions of a run.

    Args:
      config: validated configuration.
      structure: initial structure.
      potential: the pretrained model.
      velocities: [n, 3] Å/fs, of the structure's file.
      energy_sigma_ev: constant σ of the total energy in the likelihood, eV; None: that of the configuration.

    Raises:
      DataError: if the model does not have an element of the structure, or all coordinates are fixed.
      ConfigError: if a setting does not fit the structure.
    """
    species_index(structure.numbers, potential.config.elements)
    refuse_direct_forces(config.dynamics, potential.config)
    if config.dynamics.ensemble == "npt" and structure.is_periodic:
        refuse_vacuum(structure, config.dynamics.barostat.free, potential.config.r_max)
    integrator = make_integrator(config.dynamics, structure)
    motion = motions.begin(config.dynamics, structure, velocities, integrator)
    flat, unravel = potential.flat()
    pretrained = energy_zero.joined(flat[None, :])
    with_stress = structure.is_periodic and (config.dynamics.ensemble == "npt" or config.engine_gives_stress)
    predict_tree = predictor(potential.node_fn, with_stress=with_stress)

    def predict_weights(weights: jax.Array, graphs):
        return predict_tree(unravel(weights), graphs)

    predict = energy_zero.with_zero(predict_weights)

    config = stated(config, potential)
    threshold = config.threshold_ev(len(structure.numbers))
    energy_sigma = config.energy_sigma_ev(len(structure.numbers)) if energy_sigma_ev is None else energy_sigma_ev
    further = regions.checked(config.triggers, structure, energy_sigma, config.lowest_growth)
    stress_sigma = stress_sigma_ev_a3(config, with_stress=with_stress)
    prior = GaussianPrior(prior_mean(potential), prior_scale(config.prior.scale, potential))
    likelihood = Likelihood(energy_sigma, stress_sigma)
    chains = partial(_chains, config, potential, predict_weights, prior, likelihood)
    if config.posterior == "laplace":
        ways, in_full = optimum.predictors(potential.config, likelihood, further, with_stress=with_stress)
    else:
        ways, in_full = _predictors(predict, energy_sigma, stress_sigma), None

    return Problem(
        config,
        structure,
        potential,
        threshold,
        energy_sigma,
        potential.isolated_energy(structure.numbers),
        prior,
        pretrained,
        predict,
        ways[0],
        ways[1:],
        chains(None, None),
        tuple(chains(axis, at_once) for axis, at_once in LOW_MEMORY[preferred_axis()]),
        integrator,
        with_stress,
        motion,
        velocities,
        further,
        in_full,
        optimum.samples(config, predict_weights, prior, likelihood),
    )


def stress_sigma_ev_a3(config: RunConfig, *, with_stress: bool) -> float | None:
    """Constant σ of a stress component in the likelihood, eV/Å³; None where no stress is predicted."""
    return config.likelihood.stress_sigma_kcal_mol_a3 * units.KCAL_MOL if with_stress else None


def _predictors(
    predict: PredictFn, energy_sigma: float, stress_sigma: float | None
) -> tuple[Callable[..., Predictive], ...]:
    """Predictors of one structure with all chains, with decreasing memory."""
    each = (None, *GROUPS[preferred_axis()])
    return tuple(ensemble_predictor(predict, energy_sigma, stress_sigma, at_once=n) for n in each)


def _chains(
    config: RunConfig,
    potential: Potential,
    predict: PredictFn,
    prior: GaussianPrior,
    likelihood: Likelihood,
    axis: ChainAxis | None,
    at_once: int | None,
) -> OtfChains:
    """The sampler of a run; `predict` is of weights [p]."""
    sampler, zero = config.sampler, config.likelihood.energy_zero
    level = noise_levels(
        predict,
        last_sigma_bias(potential),
        sampler.batch,
        floor_ev_a=SIGMA_UNIT,
        at_once=at_once,
        free_zero=zero == "fitted",
    )
    return otf_chains(
        predict,
        prior,
        likelihood,
        step_size=first_step_size(sampler.step_size, potential),
        batch_size=sampler.batch,
        friction=sampler.friction,
        cold_steps=sampler.cold,
        ramp_steps=sampler.ramp_steps,
        eps=sampler.eps,
        thin=window(sampler.steps, sampler.cold if config.posterior == "chains" else sampler.steps),
        chain_axis=axis,
        at_once=at_once,
        level=level,
        zero=zero,
        descend=config.posterior == "laplace",
    )


def first_dynamics(problem: Problem, key: jax.Array) -> tuple[NeighborSpec, NeighborState, MDState]:
    """Neighbours and initial MD state of the initial structure; positions are relative to `first_origin`."""
    dynamics, model, structure = problem.config.dynamics, problem.potential.config, problem.structure
    origin, held = first_origin(problem), motions.fixed(structure)
    spec, state = neighbors.allocate(structure, model.elements, model.r_max, skin=dynamics.skin_angstrom, origin=origin)
    state = neighbors.update(state, spec)
    md = initial_state(
        state.graph.positions,
        structure.numbers,
        dynamics.initial_temperature_k,
        key,
        cell=state.graph.cell,
        masses=problem.masses,
        free=jnp.asarray(~held) if held.any() else None,
    )
    momenta = problem.motion.momenta
    return spec, state, md if momenta is None else md.set(momentum=jnp.asarray(momenta, md.momentum.dtype))


def first_origin(problem: Problem) -> Origin:
    """Origin of positions at the start."""
    return origins.find(problem.structure)


def learning_graph(problem: Problem, structure: Structure, *, slack: float = 1.0) -> Graph:
    """Graph for learning, without the neighbours in the skin, which cost time and contribute nothing."""
    model = problem.potential.config
    _, state = neighbors.allocate(structure, model.elements, model.r_max, skin=0.0, slack=slack)
    return state.graph


def dynamics_chunk(problem: Problem, spec: NeighborSpec, length: int) -> RunChunk:
    """Make the function for up to `length` MD steps with all chains, on all devices and within their memory."""
    return make_chunk(
        problem.evaluate,
        problem.integrator,
        spec,
        length,
        mesh=chain_mesh(problem.config.chains),
        low_memory=problem.low_memory_evaluate,
        memory_gib=problem.config.dynamics.memory_gib,
        at_end=problem.in_full,
    )


def ensemble(problem: Problem) -> Callable[[jax.Array, Graph], Predictive]:
    """Make the function that predicts one structure with all chains, within the memory of the dynamics."""
    dynamics, mesh = problem.config.dynamics, chain_mesh(problem.config.chains)
    ways = [jax.jit(evaluate) for evaluate in (problem.evaluate, *problem.low_memory_evaluate)]
    return FirstThatFits(ways, dynamics_budget(mesh, dynamics.memory_gib))


def chain_update(problem: Problem) -> Callable[..., tuple[jax.Array, ChainState, Info]]:
    """Make the function that updates all samples after a label, on all devices and within their memory.

    Where the posterior is one optimum, all samples are at it until `samples_around` draws them.
    """
    sampler = problem.config.sampler
    updates = (partial(chains.update, n_steps=sampler.steps) for chains in (problem.chains, *problem.low_memory_chains))
    update = ChainDevices(problem.config.chains, *updates, batch_size=sampler.batch, memory_gib=sampler.memory_gib)
    return update if problem.around is None else optimum.of_centre(update)


def samples_around(problem: Problem) -> optimum.Draw:
    """Make the function for the samples after the last update; they are the chains, or drawn around the optimum."""
    return (lambda params, *_: params) if problem.around is None else optimum.drawn(problem.around)


def begun_chains(problem: Problem, params: jax.Array, key: jax.Array) -> ChainState:
    """State of the chains before their first step, from samples [c, p + 1] or those around an optimum."""
    return problem.chains.init(params[: problem.config.chains], key)


def pretrained(problem: Problem) -> Callable[[Graph], Prediction]:
    """Make the function for the prediction of a graph by the model before fine-tuning, with a batch axis of 1."""
    single = jax.jit(lambda params, graph: problem.predict(params, jax.tree.map(lambda x: x[None], graph)))
    return lambda graph: single(problem.pretrained[0], graph)


def pretrained_energy(problem: Problem) -> Callable[[Graph], float]:
    """Make the function for the total energy of a graph, eV, with the model before fine-tuning; compiled once."""
    single = pretrained(problem)
    return lambda graph: problem.scale().network_to_total(float(single(graph).energy[0]))


def first_parameters(problem: Problem, key: jax.Array) -> jax.Array:
    """Starting points [c, p + 1] of the chains, different from each other so that they explore different modes."""
    config = problem.config
    spread = config.sampler.initial_spread if config.posterior == "chains" else 0.0
    weights = around_prior_mean(problem.potential, problem.prior, spread, config.chains, key)
    return energy_zero.joined(jnp.repeat(weights, rows(config) // config.chains, axis=0))


def rows(config: RunConfig) -> int:
    """Number of sets of weights that a run holds: samples, or an optimum and the samples around it."""
    return config.chains if config.posterior == "chains" else 1 + config.laplace.samples


def recording(problem: Problem) -> Recording:
    """Constants for the rows and frames of the run."""
    dynamics, structure = problem.config.dynamics, problem.structure
    return Recording(
        structure=structure,
        masses=problem.masses,
        positions=problem.positions,
        timestep_fs=dynamics.timestep_fs,
        n_steps=problem.config.n_steps,
        thermo_every=dynamics.thermo_every,
        trajectory_every=dynamics.trajectory_every,
        moving_cell=problem.integrator.needs_stress,
        degrees_of_freedom=problem.integrator.degrees_of_freedom(len(structure.numbers), structure.fixed),
        carried_ev=problem.motion.carried_ev,
    )
