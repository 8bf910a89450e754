"""Small networks of the three architectures of the papers, for slabs with adsorbed atoms."""

from collections.abc import Callable
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bayes_mlff.models import architectures
from bayes_mlff.models.config import ArchitectureConfig, MACEConfig, NequIPConfig
from bayes_mlff.models.equiformer_v2_config import EquiformerV2Config
from bayes_mlff.models.potential import Potential

R_MAX: Final = 4.3
"""Cutoff, Å: nearest and next-nearest neighbours of all metals."""

NEIGHBORS: Final = 16.0
"""Average number of neighbours within it."""


def nequip(elements: tuple[int, ...]) -> NequIPConfig:
    """NequIP of two blocks; features up to degree two."""
    return NequIPConfig(
        **_common(elements),
        hidden_irreps="32x0e+16x1o+8x2e",
        num_layers=2,
        edge_l_max=2,
        embedding_features=16,
        radial_depth=1,
        radial_width=32,
        average_neighbors=NEIGHBORS,
        energy_scales=(1.0,) * len(elements),
    )


def mace(elements: tuple[int, ...]) -> MACEConfig:
    """MACE of two interactions with products of two factors."""
    return MACEConfig(
        **_common(elements),
        hidden_irreps="24x0e+24x1o",
        num_interactions=2,
        max_ell=2,
        correlation=2,
        radial_widths=(32, 32),
        average_neighbors=NEIGHBORS,
        energy_scale=1.0,
        sigma_widths=(32, 16),
    )


def equiformer_v2(elements: tuple[int, ...]) -> EquiformerV2Config:
    """EquiformerV2 of two blocks, features up to degree two, energies that forces could be the gradient of."""
    return EquiformerV2Config(
        **_common(elements),
        forces="gradient",
        num_layers=2,
        l_max=2,
        m_max=2,
        channels=32,
        hidden_channels=16,
        heads=4,
        alpha_channels=16,
        value_channels=8,
        ffn_channels=32,
        edge_channels=32,
        num_gaussians=48,
        grid_resolution=8,
        average_degree=NEIGHBORS,
        sigma_widths=(32, 16),
    )


def for_unseen(model: Potential, unseen: tuple[int, ...], seen: tuple[int, ...]) -> Potential:
    """A model in which every weight of an element that was not trained is the mean of those of others.

    Such weights are random else, and a prior around them would be worse than none.

    Args:
      model: pretrained.
      unseen: atomic numbers of elements without labels.
      seen: atomic numbers of elements like them that had labels.
    """
    config, leaves = model.config, flatten_dict(model.params)
    rows, others = ([config.elements.index(z) for z in numbers] for numbers in (unseen, seen))
    for path, leaf in leaves.items():
        axis = architectures.of(config).element_axis(config, path)
        if axis is not None:
            moved = np.moveaxis(np.array(leaf), axis, 0)
            moved[rows] = moved[others].mean(axis=0)
            leaves[path] = jnp.asarray(np.moveaxis(moved, 0, axis))
    return Potential(config, unflatten_dict(leaves), model.origin)


def _common(elements: tuple[int, ...]) -> dict[str, Any]:
    """Adsorption energies are zero without adsorbed atoms, so that isolated atoms have none."""
    return {"elements": elements, "r_max": R_MAX, "energy_shifts": (0.0,) * len(elements)}


NETWORKS: Final[dict[str, Callable[[tuple[int, ...]], ArchitectureConfig]]] = {
    "nequip": nequip,
    "mace": mace,
    "equiformer_v2": equiformer_v2,
}
"""What can be pretrained, by name."""
