"""Output (σ head) that every network has for the standard deviation of the forces, and the path of its weights."""

from typing import Final

import jax
import jax.numpy as jnp

from bayes_mlff.core.units import KCAL_MOL
from bayes_mlff.models.config import ArchitectureConfig
from bayes_mlff.models.equivariant import MLP

SIGMA_UNIT: Final = 0.1 * KCAL_MOL
"""Force σ, eV/Å, if the output of the σ head is zero."""

HEAD: Final = "sigma"
"""Name of the σ head in the parameters of every network."""


def force_sigma(config: ArchitectureConfig, invariants: jax.Array) -> jax.Array:
    """Compute the force σ of each atom [n], eV/Å, from invariant features [n, f]; to be called inside a network.

    Its weights are in the network's parameters under `HEAD`.
    """
    log_sigma = MLP((*config.sigma_widths, 1), use_bias=True, name=HEAD)(invariants)[:, 0]
    return SIGMA_UNIT * jnp.exp(log_sigma)


def last_bias(config: ArchitectureConfig) -> tuple[str, ...]:
    """Path of the last bias of the σ head: the logarithm of the force σ in units of `SIGMA_UNIT`."""
    return (HEAD, f"dense_{len(config.sigma_widths)}", "bias")
