"""Noise levels of cold chains: σ of energies, forces and stress are set to the errors on the training set."""

from collections.abc import Callable
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.numbers import largest_divisor
from bayes_mlff.models.energetics import Params, PredictFn
from bayes_mlff.posterior.likelihood import Likelihood, count_atoms, of_structures
from bayes_mlff.posterior.potential import Observations, preferred_group
from bayes_mlff.posterior.training_set import labels_of
from bayes_mlff.sghmc.run import Adjust

MOST: Final = 64
"""Largest number of labels for an adjustment, evenly spaced over the training set if it has more."""


LevelFn = Callable[[Params, Observations], tuple[Params, Likelihood]]


class _Sums(NamedTuple):
    """Sums over labels in the dtype of the parameters; squares in units of force σ², eV² (eV²/atom²) and (eV/Å³)²."""

    forces: jax.Array
    thirds: jax.Array  # of labelled force components
    log_sigma: jax.Array  # of force σ over its floor
    atoms: jax.Array
    energy: jax.Array
    error: jax.Array  # sum, not of squares
    energies: jax.Array
    stress: jax.Array
    stresses: jax.Array


def noise_levels(
    predict: PredictFn,
    sigma_bias: np.ndarray,
    batch_size: int,
    *,
    floor_ev_a: float,
    at_once: int | None = None,
    free_zero: bool = False,
) -> LevelFn:
    """Build the function that sets every σ of a chain from its errors on the training set.

    If errors are far above σ, the first gradients are far larger than later ones. The AMSGrad mass never decreases, so
    it would keep all later steps small, and the few values with the smallest σ, the energies, would be learnt at the
    cost of the many forces. The σ of the forces comes from the network: the one weight that multiplies it is set to the
    maximum of the likelihood, which makes the mean of (ΔF/σ)² equal to 1. The σ of energy and stress are fixed in the
    likelihood: they are replaced by the root mean square error (per atom if σ is per atom) if this is larger.

    Args:
      predict: model of flat weights; with stress if the likelihood has a stress σ.
      sigma_bias: index [1] in the flat weights of the logarithm of a common factor of all force σ.
      batch_size: labels evaluated together, unless at_once or the caches of the device demand fewer.
      floor_ev_a: smallest geometric mean of force σ, eV/Å: few labels can be fitted exactly.
      at_once: labels evaluated together; by default as many of `batch_size` as suit the device.
      free_zero: the errors of energies are taken relative to their mean, see `potential_and_gradient`.

    Returns:
      `(params [p], observations) -> (params [p], likelihood)` for one chain, with that weight changed. The set must
      contain a label.
    """

    def level(params: Params, observations: Observations) -> tuple[Params, Likelihood]:
        training_set, likelihood = observations
        used = jnp.minimum(training_set.count, MOST)
        group = at_once or preferred_group(batch_size, training_set)

        def add(i: jax.Array, total: _Sums) -> _Sums:
            rank = i * group + jnp.arange(group, dtype=jnp.int32)
            graphs, labels = labels_of(training_set, jnp.minimum(rank, used - 1) * training_set.count // used)
            found, new = predict(params, graphs), rank < used
            known = labels.known_forces & new[:, None, None]
            atoms = jnp.any(known, axis=-1)
            sigma = jnp.where(atoms, found.force_sigma, 1.0)
            z2 = _squares(found.forces, labels.forces, known) / sigma[..., None] ** 2
            components = jnp.sum(jnp.broadcast_to(known, z2.shape), dtype=z2.dtype)
            unit = jax.tree.map(lambda x: 1.0, likelihood.energy_sigma)
            per = of_structures(unit, count_atoms(labels.node_mask, found.energy.dtype))
            energies, stresses = labels.has_energy & new, jnp.zeros_like(new)
            stress = jnp.zeros([])
            if likelihood.stress_sigma is not None:
                assert found.stress is not None
                stresses = labels.has_stress & new
                stress = _squares(found.stress, labels.stress, stresses[:, None, None]) / 9.0
            sums = _Sums(
                jnp.sum(z2) / 3.0,
                components / 3.0,
                jnp.sum(jnp.where(atoms, jnp.log(sigma / floor_ev_a), 0.0)),
                jnp.sum(atoms, dtype=jnp.int32),
                jnp.sum(_squares(found.energy, labels.energy, energies) / per**2),
                jnp.sum(jnp.where(energies, found.energy - labels.energy.astype(found.energy.dtype), 0.0) / per),
                jnp.sum(energies, dtype=jnp.int32),
                jnp.sum(stress),
                jnp.sum(stresses, dtype=jnp.int32),
            )
            return jax.tree.map(lambda t, x: t + x.astype(t.dtype), total, sums)

        nothing = _Sums(*[jnp.zeros([], params.dtype)] * len(_Sums._fields))
        sums = jax.lax.fori_loop(0, (used + group - 1) // group, add, nothing)
        change = jnp.maximum(0.5 * jnp.log(sums.forces / sums.thirds), -sums.log_sigma / sums.atoms)
        change = jnp.where(sums.thirds > 0.0, change, 0.0)  # without labelled forces their σ stays as it is
        mean = sums.error / jnp.maximum(sums.energies, 1.0) if free_zero else 0.0
        energy = jnp.maximum(sums.energy - mean * sums.error, 0.0)
        stress_sigma = likelihood.stress_sigma
        levelled = Likelihood(
            jax.tree.map(lambda x: _at_least(x, energy, sums.energies), likelihood.energy_sigma),
            None if stress_sigma is None else _at_least(stress_sigma, sums.stress, sums.stresses),
        )
        return params.at[sigma_bias].add(change), levelled

    return level


def _squares(one: jax.Array, other: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, one - other.astype(one.dtype), 0.0) ** 2


def _at_least(sigma: float | jax.Array, squares: jax.Array, count: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.asarray(sigma, squares.dtype), jnp.sqrt(squares / jnp.maximum(count, 1.0)))


def window(steps: int, cold_steps: int) -> int:
    """Steps between two adjustments: a divisor of all steps, at most 50, with at least two intervals while cold."""
    return largest_divisor(steps, min(50, cold_steps // 2 or 50))


def while_cold(level: LevelFn, cold_steps: int, thin: int) -> Adjust:
    """Adjust before each window of `thin` steps that ends at temperature 0; later it would change the posterior.

    The errors of energy and stress are multiplied by the fraction of the cold steps that is left, so that their σ
    decreases to that of the likelihood. Energies are learnt, too, and no sudden change of a weight causes large steps.
    """

    def adjust(params: Params, step: jax.Array, observations: Observations) -> tuple[Params, Observations]:
        fixed = jax.tree.map(lambda x: jnp.asarray(x, params.dtype), observations.likelihood)
        left = 1.0 - step.astype(params.dtype) / max(cold_steps, 1)

        def levelled(params: Params) -> tuple[Params, Likelihood]:
            params, levels = level(params, observations)
            return params, jax.tree.map(lambda least, x: jnp.maximum(least, left * x), fixed, levels)

        params, likelihood = jax.lax.cond(step + thin <= cold_steps, levelled, lambda params: (params, fixed), params)
        return params, observations._replace(likelihood=likelihood)

    return adjust
