"""Run the chains in compiled stretches, each followed by a checkpoint, so that a kill loses at most one stretch."""

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.errors import RunDirectoryError, RunStoppedError
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.graph import Graph
from bayes_mlff.data.labelled_frames import Frames
from bayes_mlff.finetune.config import FinetuneConfig
from bayes_mlff.finetune.plan import Plan
from bayes_mlff.models.energetics import PredictFn
from bayes_mlff.parallel.devices import LOW_MEMORY, ChainDevices
from bayes_mlff.posterior import training_set as training
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.potential import Observations, potential_and_gradient
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.runs import checkpoint
from bayes_mlff.sghmc.run import Adjust, ChainAxis, ChainState, Info, chain_runner, init_chains, preferred_axis


class Observer(Protocol):
    """Receiver of progress reports of a fine-tuning."""

    def say(self, text: str) -> None:
        """One line of text."""
        ...

    def working(self, what: str) -> None:
        """What is being waited for from now on, in a few words."""
        ...

    def stretch(self, *, step: int, steps: int, potential: float, seconds: float) -> None:
        """`step` of `steps` are done, `seconds` after the start or the resumption."""
        ...


class State(NamedTuple):
    """Content of a checkpoint: all that is needed to continue."""

    params: jax.Array  # [c, p]
    chains: ChainState
    samples: jax.Array  # [s, c, p]; NaN until taken
    best: jax.Array  # [c] smallest RMSE on the validation set so far, see `Validate`; optimisers only
    step: jax.Array  # [] int32


class Trace(NamedTuple):
    """Quantities that are recorded once per stretch."""

    step: int
    potential: float  # per datum, mean over chains, end of the stretch
    kinetic_temperature: float
    validation_rmse: float | None  # mean over members, kcal/mol/Å or kcal/mol, see `Validate`; optimisers only


class Sampled(NamedTuple):
    """Result of running the chains."""

    samples: jax.Array  # [s * c, p]
    trace: list[Trace]
    seconds: float  # summed over all sessions


class Validate(Protocol):
    """Error of every chain on the validation set: of the forces, or of the energies where these are learnt alone."""

    def __call__(self, params: jax.Array) -> np.ndarray:
        """RMSE [c], eV/Å or eV, of params [c, p]."""
        ...


def fill(config: FinetuneConfig, frames: Frames, graphs: Graph, atomic_ev: np.ndarray) -> TrainingSet:
    """Put the training frames on the device.

    Args:
      config: says which labels are learnt from.
      frames: labels.
      graphs: leaves [f, ...].
      atomic_ev: [f] sums of atomic reference energies, which networks do not learn: subtracted from the labels.
    """
    filled = training.allocate(
        jax.tree.map(lambda x: x[0], graphs), frames.size, some_forces=frames.without_forces is not None
    )
    energies = frames.energy if config.learns_energy else None
    known = frames.known_forces
    for i in range(frames.size):
        energy = None if energies is None else float(energies[i] - atomic_ev[i])
        stress = frames.stress[i] if config.learns_stress and frames.stress is not None else None
        graph = jax.tree.map(lambda x, i=i: x[i], graphs)
        filled = training.append(filled, graph, energy, frames.forces[i], stress, has_forces=known[i])
    return filled


def run(
    config: FinetuneConfig,
    plan: Plan,
    predict: PredictFn,
    likelihood: Likelihood,
    training_set: TrainingSet,
    start: jax.Array,
    key: jax.Array,
    *,
    folder: Path,
    digest: str,
    observer: Observer,
    validate: Validate | None = None,
    adjust: Adjust | None = None,
) -> Sampled:
    """Run all steps of a plan, from the newest checkpoint if there is one.

    The result of an interrupted and continued run is bit-identical to that of an uninterrupted one.

    Args:
      config: settings; the batch size and the kind of energy zero are used.
      plan: update rule, prior and sample steps.
      predict: model of flat weights.
      likelihood: fixed standard deviations.
      training_set: labels.
      start: first parameters [c, p].
      key: of the chains.
      folder: of the checkpoints.
      digest: of labels and pretrained model; a checkpoint made with others is refused.
      observer: told about progress.
      validate: makes optimisers keep each member's best parameters; samplers ignore it.
      adjust: function that adjusts parameters and likelihood between steps.

    Raises:
      ConfigError: naming `sampler.memory_gib`, if not even one chain and one label at a time fit into the memory.
      RunStoppedError: if a chain is no longer finite.
      RunDirectoryError: if the checkpoints belong to other labels or another model.
    """
    advance = _advance(config, plan, predict, likelihood, adjust)
    state, trace, before = _first(plan, start, key, folder, digest, observer)
    last, began = plan.sample_steps[-1], time.perf_counter()
    while int(state.step) < last:
        step = plan.stretch_end(int(state.step))
        params, chains, info = _stretch(config, plan, advance, state, training_set, step)
        state = State(params, chains, state.samples, state.best, jnp.asarray(step, jnp.int32))
        error = validate(params) if validate is not None and config.optimises else None
        state = _keep(state, plan, error)
        u, heat = float(jnp.mean(info.potential[:, -1])), float(jnp.mean(info.kinetic_temperature[:, -1]))
        trace.append(Trace(step, u, heat, None if error is None else float(np.mean(error)) * KCAL_MOL_PER_EV))
        seconds = time.perf_counter() - began
        metadata = {"trace": [list(t) for t in trace], "seconds": before + seconds, "digest": digest}
        checkpoint.write(folder, step, state, metadata)
        observer.stretch(step=step, steps=last, potential=u, seconds=seconds)
    samples = state.samples.reshape(-1, state.samples.shape[-1])
    return Sampled(samples, trace, before + time.perf_counter() - began)


def _advance(
    config: FinetuneConfig, plan: Plan, predict: PredictFn, likelihood: Likelihood, adjust: Adjust | None
) -> dict[int, ChainDevices]:
    """Updates by numbers of steps; each evaluates as many chains and labels at once as fit into the memory."""

    def update(
        params: jax.Array,
        chains: ChainState,
        labels: TrainingSet,
        *,
        steps: int,
        axis: ChainAxis,
        at_once: int | None,
        batch_axis: str | None = None,
    ):
        value_and_grad = potential_and_gradient(
            predict,
            plan.prior,
            config.sampler.batch,
            prefer_newest=False,
            at_once=at_once,
            batch_axis=batch_axis,
            free_zero=config.fits_energy_zero,
        )
        run = chain_runner(
            value_and_grad, plan.transform, n_steps=steps, thin=plan.thin, chain_axis=axis, adjust=adjust
        )
        return run(params, chains, Observations(labels, likelihood), labels.count)

    ways: tuple[tuple[ChainAxis, int | None], ...] = ((preferred_axis(), None), *LOW_MEMORY[preferred_axis()])
    return {
        steps: ChainDevices(
            plan.chains,
            *(partial(update, steps=steps, axis=axis, at_once=at_once) for axis, at_once in ways),
            batch_size=config.sampler.batch,
            memory_gib=config.sampler.memory_gib,
        )
        for steps in {plan.chunk, plan.thin}
    }


def _stretch(
    config: FinetuneConfig, plan: Plan, advance: dict[int, ChainDevices], state: State, labels: TrainingSet, end: int
) -> tuple[jax.Array, ChainState, Info]:
    """Chains at step `end`, and the diagnostics of the last call.

    A stretch shorter than the chunk is made of calls of `thin` steps, so there are at most two compilations.
    """
    params, chains, info, step = state.params, state.chains, None, int(state.step)
    each = plan.chunk if end - step == plan.chunk else plan.thin
    for done in range(step + each, end + 1, each):
        params, chains, info = advance[each](params, chains, labels)
        if not bool(jnp.all(info.finite)):
            raise RunStoppedError(f"step {done}: a chain became non-finite; a smaller {config.pace} usually helps")
    assert info is not None
    return params, chains, info


def _first(plan: Plan, start: jax.Array, key: jax.Array, folder: Path, digest: str, observer: Observer):
    """State from which to continue, its trace and the seconds spent before."""
    chains = init_chains(start, key, plan.transform)
    samples = jnp.full((len(plan.sample_steps), *start.shape), jnp.nan, start.dtype)
    best = jnp.full((plan.chains,), jnp.inf, start.dtype)
    fresh = State(start, chains, samples, best, jnp.zeros([], jnp.int32))
    if not any(folder.glob("*.ckpt")):
        return fresh, [], 0.0
    arrays, metadata, remarks = checkpoint.newest(folder)
    for remark in remarks:
        observer.say(remark)
    _check_digest(metadata["digest"], digest, folder)
    observer.say(f"continuing from step {metadata['step']}")
    return checkpoint.restore(fresh, arrays), [Trace(*row) for row in metadata["trace"]], float(metadata["seconds"])


def check_digest(folder: Path, digest: str) -> None:
    """Refuse checkpoints of other labels or another pretrained model than those with this digest.

    Raises:
      RunDirectoryError: naming the folder.
    """
    if any(folder.glob("*.ckpt")):
        _check_digest(checkpoint.newest(folder)[1]["digest"], digest, folder)


def _check_digest(found: str, wanted: str, folder: Path) -> None:
    if found != wanted:
        raise RunDirectoryError(
            f"{folder}: its checkpoints were made with other labels, elements of any set or pretrained model than the "
            "present files contain; restore these files, or choose another output"
        )


def _keep(state: State, plan: Plan, error: np.ndarray | None) -> State:
    """Store the samples that are due; given validation errors [c], keep the best parameters of each member."""
    if error is not None:
        new = jnp.asarray(error, state.best.dtype)
        better = new < state.best
        samples = jnp.where(better[None, :, None], state.params[None], state.samples)
        return state._replace(samples=samples, best=jnp.where(better, new, state.best))
    if int(state.step) in plan.sample_steps:
        slot = plan.sample_steps.index(int(state.step))
        return state._replace(samples=state.samples.at[slot].set(state.params))
    return state
