"""The smallest networks with message passing, for tests that train, save or damage a model."""

from typing import Any

from bayes_mlff.models.config import MACEConfig, NequIPConfig
from bayes_mlff.models.equiformer_v2_config import EquiformerV2Config


def tiny_nequip(elements: tuple[int, ...], **changes: Any) -> NequIPConfig:
    """NequIP with one block of two scalars and two vectors; its energies are a few tens of meV.

    Args:
      elements: atomic numbers, ascending.
      changes: other values of fields of the configuration.
    """
    defaults: dict[str, Any] = {
        "r_max": 3.0,
        "hidden_irreps": "2x0e+2x1o",
        "num_layers": 1,
        "edge_l_max": 1,
        "embedding_features": 2,
        "radial_depth": 1,
        "radial_width": 4,
        "average_neighbors": 5.0,
        "sigma_widths": (4,),
        "energy_scales": (0.05,) * len(elements),
        "energy_shifts": (0.0,) * len(elements),
    }
    return NequIPConfig(elements=elements, **(defaults | changes))


def tiny_mace(elements: tuple[int, ...], **changes: Any) -> MACEConfig:
    """MACE with one interaction of two scalars.

    Args:
      elements: atomic numbers, ascending.
      changes: other values of fields of the configuration.
    """
    defaults: dict[str, Any] = {
        "r_max": 3.0,
        "hidden_irreps": "2x0e",
        "num_interactions": 1,
        "max_ell": 1,
        "correlation": 1,
        "num_bessels": 2,
        "radial_widths": (2,),
        "average_neighbors": 5.0,
        "sigma_widths": (2,),
        "energy_scale": 1.0,
        "energy_shifts": (0.0,) * len(elements),
    }
    return MACEConfig(elements=elements, **(defaults | changes))


def tiny_equiformer_v2(elements: tuple[int, ...], **changes: Any) -> EquiformerV2Config:
    """EquiformerV2 with one block of two channels up to vectors, and forces from the gradient.

    Args:
      elements: atomic numbers, ascending.
      changes: other values of fields of the configuration.
    """
    defaults: dict[str, Any] = {
        "r_max": 3.0,
        "forces": "gradient",
        "num_layers": 1,
        "l_max": 1,
        "m_max": 1,
        "channels": 2,
        "hidden_channels": 2,
        "heads": 1,
        "alpha_channels": 2,
        "value_channels": 2,
        "ffn_channels": 2,
        "edge_channels": 2,
        "num_gaussians": 4,
        "grid_resolution": 4,
        "average_degree": 5.0,
        "sigma_widths": (2,),
        "energy_shifts": (0.0,) * len(elements),
    }
    return EquiformerV2Config(elements=elements, **(defaults | changes))
