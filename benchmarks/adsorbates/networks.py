"""Small networks of the three architectures of the papers, for slabs with adsorbed atoms."""

from collections.abc import Callable
from typing import Any, Final

from bayes_mlff.models.config import ArchitectureConfig, MACEConfig, NequIPConfig
from bayes_mlff.models.equiformer_v2_config import EquiformerV2Config

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


def _common(elements: tuple[int, ...]) -> dict[str, Any]:
    """Adsorption energies are zero without adsorbed atoms, so that isolated atoms have none."""
    return {"elements": elements, "r_max": R_MAX, "energy_shifts": (0.0,) * len(elements)}


NETWORKS: Final[dict[str, Callable[[tuple[int, ...]], ArchitectureConfig]]] = {
    "nequip": nequip,
    "mace": mace,
    "equiformer_v2": equiformer_v2,
}
"""What can be pretrained, by name."""
