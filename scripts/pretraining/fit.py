"""Pretraining: a point estimate of the weights from a large collection of labelled frames."""

from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bayes_mlff.models.energetics import NodeFn, Params
from pretraining.collection import Collection, Draw, draw, layout

NORM_FLOOR = 0.01
"""Force error below which the norm loss turns quadratic, eV/Å: the noise of the reference forces."""


class FitState(NamedTuple):
    """State of the optimisation: all that a checkpoint needs to continue."""

    params: jax.Array  # [p] flat weights
    average: jax.Array  # [p] exponential moving average of the weights
    optimizer: optax.OptState
    step: jax.Array  # [] int32


class FitInfo(NamedTuple):
    """Diagnostics: means over the steps of one call."""

    loss: jax.Array  # []
    force_mae: jax.Array  # [] eV/Å


class FramePrediction(NamedTuple):
    """Observables of every frame of a draw."""

    energy: jax.Array  # [g] eV
    forces: jax.Array  # [N, 3] eV/Å
    stress: jax.Array | None  # [g, 3, 3] eV/Å³, tension positive; None for molecules


def predict_frames(
    node_fn: NodeFn, params: Params, batch: Draw, species: np.ndarray, frame: np.ndarray
) -> FramePrediction:
    """Evaluate a draw whose atoms have species [N] and belong to frame [N], as `layout` gives them."""
    frames = batch.energy.shape[0]
    row_frame = jnp.asarray(frame)[batch.receivers]

    def total(positions: jax.Array, strain: jax.Array | None):
        vectors = positions[batch.neighbors] - positions[batch.receivers][:, None, :]
        if batch.offsets is not None:
            vectors = vectors + batch.offsets
        if strain is not None:
            symmetric = 0.5 * (strain + jnp.swapaxes(strain, -1, -2))
            vectors = vectors + jnp.einsum("rki,rij->rkj", vectors, symmetric[row_frame], precision="highest")
        unit = jnp.zeros_like(vectors).at[..., 0].set(1.0)
        vectors = jnp.where(batch.edge_mask[..., None], vectors, unit)
        node = node_fn(params, vectors, jnp.asarray(species), batch.neighbors, batch.edge_mask, batch.receivers)
        return jnp.sum(node.energy), jax.ops.segment_sum(
            node.energy, jnp.asarray(frame), num_segments=frames, indices_are_sorted=True
        )

    if batch.volume is None:
        gradient, energy = jax.grad(total, has_aux=True)(batch.positions, None)
        return FramePrediction(energy, -gradient, None)
    still = jnp.zeros((frames, 3, 3), batch.positions.dtype)
    (gradient, virial), energy = jax.grad(total, (0, 1), has_aux=True)(batch.positions, still)
    return FramePrediction(energy, -gradient, virial / batch.volume[:, None, None])


def make_fit(
    node_fn: NodeFn,
    unravel: Callable[[jax.Array], Params],
    collection: Collection,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    frames_per_member: int,
    energy_weight: float,
    force_loss: Literal["mse", "norm"] = "norm",
    stress_weight: float = 0.0,
    average_decay: float = 0.999,
    steps_per_call: int = 200,
):
    """Compile a function that makes `steps_per_call` training steps.

    The loss is that of the forces plus `energy_weight` times a Huber loss (δ = 0.2) of the energy error divided by the
    square root of the number of atoms; all frames have the same weight. The loss of an atom's force error e is |e|²/3
    ("mse") or |e|/3 ("norm"), which is less sensitive to outliers. For crystals, `stress_weight` times a Huber loss
    (δ = 0.02) of the stress times the volume per atom (eV) is added.

    Args:
      node_fn: network.
      unravel: flat weights to the network's parameters.
      collection: training frames.
      optimizer: any optax transformation; it receives `key` and `n_data` as extra arguments.
      frames_per_member: frames of every molecule in a batch.
      energy_weight: weight of energies relative to forces.
      force_loss: which of the two.
      stress_weight: weight of the stress relative to forces.
      average_decay: of the moving average of weights.
      steps_per_call: steps in one call.

    Returns:
      `(FitState, key) -> (FitState, FitInfo)`.
    """
    species, frame = layout(collection, frames_per_member)
    atoms = np.bincount(frame)
    n_data = sum(m.energy.shape[0] for m in collection.members)
    per_atom = 1.0 / (3.0 * atoms[frame] * len(atoms))

    def loss(params: jax.Array, batch: Draw):
        predicted = predict_frames(node_fn, unravel(params), batch, species, frame)
        error = predicted.forces - batch.forces
        weights = jnp.asarray(per_atom, error.dtype)
        squares = jnp.sum(error**2, axis=-1)
        force = jnp.sum(weights * (squares if force_loss == "mse" else jnp.sqrt(squares + NORM_FLOOR**2)))
        mae = jnp.sum(weights[:, None] * jnp.abs(error))
        root = jnp.asarray(np.sqrt(atoms), error.dtype)
        energy = optax.huber_loss(predicted.energy / root, batch.energy / root, delta=0.2)
        value = force + energy_weight * jnp.mean(energy)
        if predicted.stress is not None and batch.stress is not None and batch.volume is not None:
            per_volume = (batch.volume / jnp.asarray(atoms, error.dtype))[:, None, None]
            virial, wanted = predicted.stress * per_volume, batch.stress * per_volume
            value = value + stress_weight * jnp.mean(optax.huber_loss(virial, wanted, delta=0.02))
        return value, mae

    def step(state: FitState, key: jax.Array):
        key_draw, key_noise = jax.random.split(key)
        keys = jax.random.split(key_draw, len(collection.members))
        indices = tuple(
            jax.random.randint(k, (frames_per_member,), 0, m.energy.shape[0])
            for k, m in zip(keys, collection.members, strict=True)
        )
        (value, mae), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, draw(collection, indices))
        updates, opt = optimizer.update(gradient, state.optimizer, state.params, key=key_noise, n_data=n_data)
        params = cast(jax.Array, optax.apply_updates(state.params, updates))  # optax: any tree
        average = average_decay * state.average + (1.0 - average_decay) * params
        return FitState(params, average, opt, state.step + 1), FitInfo(value, mae)

    @jax.jit
    def run(state: FitState, key: jax.Array) -> tuple[FitState, FitInfo]:
        state, info = jax.lax.scan(step, state, jax.random.split(key, steps_per_call))
        return state, FitInfo(jnp.mean(info.loss), jnp.mean(info.force_mae))

    return run
