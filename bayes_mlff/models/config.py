"""Architecture settings: frozen, validated, hashable, and stored beside the weights."""

from typing import Annotated, Literal

import e3nn_jax as e3nn
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class NequIPConfig(BaseModel):
    """A NequIP network (Batzner et al. 2022, Nat. Commun. 13, 2453) with a force-σ head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["nequip"] = "nequip"
    elements: tuple[int, ...]
    """Atomic numbers the model knows, strictly ascending; the species index is the position here."""
    r_max: PositiveFloat
    """Cutoff radius, Å."""
    hidden_irreps: str
    """Features between interaction blocks, e.g. '64x0e+64x0o+64x1e+64x1o+64x2e+64x2o'."""
    num_layers: PositiveInt
    """Interaction blocks; the last one has scalar outputs only."""
    edge_l_max: Annotated[int, Field(ge=0, le=4)]
    """Highest degree of the spherical harmonics on edges."""
    embedding_features: PositiveInt
    """Width of the trainable element embedding."""
    radial_depth: PositiveInt = 2
    radial_width: PositiveInt = 64
    num_bessels: PositiveInt = 8
    cutoff_power: PositiveInt = 6
    """Exponent p of the polynomial cutoff (Gasteiger et al. 2020)."""
    average_neighbors: PositiveFloat
    """Messages are divided by its square root."""
    readout_depth: Annotated[int, Field(ge=0)] = 0
    readout_width: PositiveInt = 16
    sigma_widths: tuple[PositiveInt, ...] = (32, 16)
    """Hidden widths of the MLP from invariant node features to log σ."""
    energy_scales: tuple[float, ...]
    """Energy scale of each element, eV; in the order of `elements`."""
    energy_shifts: tuple[float, ...]
    """Energy of each element when isolated, eV; added on the host in float64."""

    @field_validator("elements")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or list(value) != sorted(set(value)) or not 1 <= value[0] <= value[-1] <= 118:
            raise ValueError("must be distinct atomic numbers 1..118 in ascending order")
        return value

    @field_validator("hidden_irreps")
    @classmethod
    def _canonical(cls, value: str) -> str:
        irreps = e3nn.Irreps(value).regroup()
        if irreps.count(e3nn.Irrep(0, 1)) == 0:
            raise ValueError("must contain even scalars, e.g. '16x0e+16x1o'")
        return str(irreps)

    @model_validator(mode="after")
    def _one_each(self) -> "NequIPConfig":
        for name in ("energy_scales", "energy_shifts"):
            if len(getattr(self, name)) != len(self.elements):
                raise ValueError(f"{name} needs one number for each of the {len(self.elements)} elements")
        return self
