"""Settings of EquiformerV2."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from bayes_mlff.models.config import HIGHEST_DEGREE, ArchitectureConfig, PositiveFloat, PositiveInt

OC20_ATOMS: Final = 77.81317
"""Average number of atoms of the structures of OC20, by which energies of atoms are divided."""

OC20_DEGREE: Final = 23.395238876342773
"""Average number of neighbours within 5 Å in OC20, by which the sum of the edge-degree embedding is divided."""


class EquiformerV2Config(ArchitectureConfig, frozen=True):
    """An EquiformerV2 network (Liao et al. 2024, arXiv:2306.12059) with a force-σ head.

    The defaults of all sizes are those of the published network of 31 M weights for OC20, see `published`.

    With `forces: direct` forces are outputs of the network, as in that network. They are not the gradient of any
    energy: the energy of a trajectory drifts, and constant-energy dynamics is refused. With `forces: gradient` they are
    minus the gradient of the energy; an envelope then takes all messages smoothly to zero at `r_max`, and all
    neighbours count, since energies would jump where the nearest ones change.
    """

    architecture: Literal["equiformer_v2"] = "equiformer_v2"
    forces: Literal["direct", "gradient"]
    """Whether forces are an output of the network or the gradient of the energy."""
    max_neighbors: PositiveInt | None = None
    """If set, only so many nearest neighbours of each atom count; only with direct forces."""
    num_layers: PositiveInt = 8
    l_max: Annotated[int, Field(ge=1, le=HIGHEST_DEGREE)] = 4
    """Highest degree of the features."""
    m_max: Annotated[int, Field(ge=0, le=HIGHEST_DEGREE)] = 2
    """Highest order that convolutions see, in the frame of an edge; at most `l_max`."""
    channels: PositiveInt = 128
    """Channels of the features of an atom, for each degree and order."""
    hidden_channels: PositiveInt = 64
    """Channels between the two convolutions of an attention."""
    heads: PositiveInt = 8
    """Attention heads."""
    alpha_channels: PositiveInt = 64
    """Channels of each head from which attention weights are made."""
    value_channels: PositiveInt = 16
    """Channels of each head's messages."""
    ffn_channels: PositiveInt = 128
    """Hidden channels of the feed-forward networks and of the energy head."""
    edge_channels: PositiveInt = 128
    """Widths of the radial networks, and of the embeddings of both elements of an edge."""
    num_gaussians: Annotated[int, Field(ge=2, le=65536)] = 600
    """Gaussians of the distance, equally spaced from 0 to `r_max`; their width is twice their spacing."""
    grid_resolution: Annotated[int, Field(ge=4, le=100, multiple_of=2)] = 18
    """Latitudes and longitudes of the grid on the sphere: an even number, at least 2·l_max + 2."""
    attention_activation: Literal["s2", "gate"] = "s2"
    """Activation between the convolutions: SiLU on the grid, with scalars apart, or gates."""
    feed_forward: Literal["grid_mlp", "s2", "gate"] = "grid_mlp"
    """What feed-forward networks do between their linear maps: a network or SiLU on the grid, with scalars apart, or
    gates."""
    envelope_power: PositiveInt = 5
    """Exponent p of the polynomial envelope of `forces: gradient` (Gasteiger et al. 2020)."""
    average_degree: PositiveFloat = OC20_DEGREE
    """The sum of the edge-degree embedding is divided by this number."""
    energy_scale: PositiveFloat = 1.0
    """Factor on the energy of every atom, eV."""
    force_scale: PositiveFloat = 1.0
    """Factor on direct forces, eV/Å."""
    sigma_widths: tuple[PositiveInt, ...] = (64, 16)

    @model_validator(mode="after")
    def _consistent(self) -> "EquiformerV2Config":
        if self.m_max > self.l_max:
            raise ValueError(f"m_max must be at most l_max, {self.l_max}")
        if self.grid_resolution < 2 * self.l_max + 2:
            raise ValueError(f"grid_resolution must be at least {2 * self.l_max + 2} for l_max {self.l_max}")
        if self.forces == "gradient" and self.max_neighbors is not None:
            raise ValueError("max_neighbors must be null with forces gradient: energies would jump")
        return self

    @property
    def coefficients(self) -> int:
        """Number of degrees and orders of the features."""
        return (self.l_max + 1) ** 2


def published(elements: tuple[int, ...], **changes: Any) -> EquiformerV2Config:
    """The network of 31 M weights that was published for OC20, in units of its outputs.

    Args:
      elements: atomic numbers, ascending.
      changes: other values of fields of the configuration.
    """
    settings: dict[str, Any] = {
        "forces": "direct",
        "r_max": 12.0,
        "max_neighbors": 20,
        "energy_scale": 1.0 / OC20_ATOMS,
        "energy_shifts": (0.0,) * len(elements),
    }
    return EquiformerV2Config(elements=elements, **(settings | changes))
