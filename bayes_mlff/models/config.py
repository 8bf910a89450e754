"""Settings of the architectures: immutable, validated, hashable, and stored together with the weights."""

import math
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self

import e3nn_jax as e3nn
from pydantic import BaseModel, Field, field_validator, model_validator

from bayes_mlff.core.errors import READER_ERRORS
from bayes_mlff.models.distance_transforms import DistanceTransform
from bayes_mlff.models.energetics import Params
from bayes_mlff.models.pair_repulsion import PairRepulsion

PositiveInt = Annotated[int, Field(ge=1, le=65536)]
"""Numbers of layers, widths and powers; bounded, so that a damaged file cannot ask for an enormous network."""
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

HIGHEST_DEGREE: Final = 6
"""Highest degree l of features; far above that of any published network."""


def _irreps(value: str) -> e3nn.Irreps:
    """Read irreps in e3nn's notation, with equal ones grouped; their degree and number are limited.

    Raises:
      ValueError: saying what is allowed.
    """
    try:
        irreps = e3nn.Irreps(value[:500]).regroup()
    except READER_ERRORS as error:
        raise ValueError(f"must be irreps such as '16x0e+16x1o' ({error})") from error
    if len(value) > 500 or irreps.lmax > HIGHEST_DEGREE or irreps.num_irreps > 65536:
        raise ValueError(f"must have degrees up to {HIGHEST_DEGREE} and at most 65536 irreps")
    return irreps


class ArchitectureConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Settings that all architectures have; the table in `architectures` has a row for each subclass."""

    tables: ClassVar[tuple[str, ...]] = ("energy_shifts",)
    """Fields with one number for each element, in the order of `elements`."""

    architecture: str
    """Name of the architecture, also in files; each subclass allows only one value, its default."""
    elements: tuple[int, ...]
    """Atomic numbers the model knows, strictly ascending; the species index is the position here."""
    r_max: PositiveFloat
    """Cutoff radius, Å."""
    sigma_widths: tuple[PositiveInt, ...]
    """Hidden widths of the MLP from invariant node features to log σ."""
    energy_shifts: tuple[float, ...]
    """Energy of each element when isolated, eV; added on the host in float64."""

    @field_validator("elements")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or list(value) != sorted(set(value)) or not 1 <= value[0] <= value[-1] <= 118:
            raise ValueError("must be distinct atomic numbers 1..118 in ascending order")
        return value

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        for name in self.tables:
            if len(getattr(self, name)) != len(self.elements):
                raise ValueError(f"{name} needs one number for each of the {len(self.elements)} elements")
        return self

    def restricted(self, places: tuple[int, ...]) -> Self:
        """The configuration for only the elements at these positions, in ascending order."""
        return type(self).model_validate(self.model_dump() | self._tables_of(places))

    def _tables_of(self, places: tuple[int, ...]) -> dict[str, Any]:
        """The fields that depend on the elements, for those at these positions."""
        return {name: tuple(getattr(self, name)[i] for i in places) for name in ("elements", *self.tables)}


class Imported(NamedTuple):
    """Configuration and weights that were read from the file of another program."""

    config: ArchitectureConfig
    params: Params


class NequIPConfig(ArchitectureConfig, frozen=True):
    """A NequIP network (Batzner et al. 2022, Nat. Commun. 13, 2453) with a force-σ head.

    The defaults are NequIP's choices; `sevennet_weights.describe` gives those of SevenNet, `nequix_weights.describe`
    those of Nequix.
    """

    tables = ("energy_scales", "energy_shifts")

    architecture: Literal["nequip"] = "nequip"
    hidden_irreps: str
    """Features between interaction blocks, e.g. '64x0e+64x0o+64x1e+64x1o+64x2e+64x2o'."""
    num_layers: PositiveInt
    """Interaction blocks; the last one has scalar outputs only."""
    edge_l_max: Annotated[int, Field(ge=0, le=4)]
    """Highest degree of the spherical harmonics on edges."""
    solid_harmonics: bool = False
    """Whether harmonics of degree l are multiplied by the l-th power of the distance in Å."""
    parity: bool = True
    """Whether irreps are even or odd. Without it all are even, and mirror images may differ in energy."""
    embedding_features: PositiveInt
    """Width of the trainable element embedding."""
    one_hot_embedding: bool = False
    """Whether the embedding is a linear map of the one-hot element, normalised by `declared_elements`."""
    declared_elements: PositiveInt = Field(default_factory=lambda known: len(known["elements"]))
    """Number of elements that maps of the one-hot element are normalised for: that before a restriction to some."""
    one_hot_input: bool = False
    """Whether the first block's input is the one-hot element: the embedding is then its messages, with no other linear
    map, and its self-connection a row of each element, normalised like the embedding."""
    self_connection: Literal["embedding", "element", "linear", "indexed"] = "embedding"
    """What mixes the channels of a block's input, added to its output: a matrix that is linear in the element
    embedding, one of each element, or one for all. `indexed` is one of each element, normalised for channels alone."""
    first_self_connection: bool = False
    """Whether the first block has one too."""
    scalar_biases: bool = False
    """Whether the linear maps before and after the convolution add a bias to even scalars."""
    layer_norm: bool = False
    """Whether features are divided by their root mean square over channels and irreps before the gate."""
    activation_norm: Literal["e3nn", "e3nn-jax"] = "e3nn"
    """Whose estimate of the second moments normalises the activations of the gate; they differ by 0.2 %."""
    radial_depth: PositiveInt = 2
    radial_width: PositiveInt = 64
    radial_gain: PositiveFloat = math.sqrt(2.0)
    """Gain of the radial networks' layers after an activation."""
    num_bessels: PositiveInt = 8
    trainable_bessels: bool = True
    """Whether the frequencies of the Bessel functions are weights; otherwise they are 1, 2, 3, ..."""
    cutoff_power: PositiveInt = 6
    """Exponent p of the polynomial cutoff (Gasteiger et al. 2020)."""
    pair_cutoffs: tuple[tuple[PositiveFloat, ...], ...] = ()
    """If given, the cutoff, Å, of each pair of elements instead of `r_max`: a row for each element of the atom, in it
    a number for each element of its neighbour."""
    switch_on: PositiveFloat | None = None
    """If set, the XPLOR function from this distance, Å, to `r_max` replaces the polynomial cutoff."""
    average_neighbors: PositiveFloat | tuple[PositiveFloat, ...]
    """Messages are divided by the square root of this number; one for all blocks, or one for each."""
    element_neighbors: tuple[PositiveFloat, ...] = ()
    """If given, one such number for each element, by which the messages of its atoms are divided instead."""
    readout_depth: Annotated[int, Field(ge=0)] = 0
    readout_width: PositiveInt = 16
    readout_activation: bool = True
    """Whether there is an activation between the layers of the readout."""
    sigma_widths: tuple[PositiveInt, ...] = (32, 16)
    energy_scales: tuple[float, ...]
    """Energy scale of each element, eV; in the order of `elements`."""
    pair_repulsion: PairRepulsion | None = None
    """Repulsion of the nuclei, added to the scaled energies."""
    head: Annotated[str, Field(max_length=200)] | None = None
    """Name of the head (SevenNet: modality) of the original file that this is; None if that has only one."""

    @field_validator("hidden_irreps")
    @classmethod
    def _canonical(cls, value: str) -> str:
        irreps = _irreps(value)
        if irreps.count(e3nn.Irrep(0, 1)) == 0:
            raise ValueError("must contain even scalars, e.g. '16x0e+16x1o'")
        return str(irreps)

    @model_validator(mode="after")
    def _one_for_each_block(self) -> "NequIPConfig":
        if isinstance(self.average_neighbors, tuple) and len(self.average_neighbors) != self.num_layers:
            raise ValueError(f"average_neighbors needs one number, or one for each of the {self.num_layers} blocks")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "NequIPConfig":
        if self.declared_elements < len(self.elements):
            raise ValueError(f"declared_elements must be at least the number of elements, {len(self.elements)}")
        if not self.parity and any(ir.p < 0 for _, ir in e3nn.Irreps(self.hidden_irreps)):
            raise ValueError("hidden_irreps must all be even without parity, e.g. '16x0e+16x1e'")
        if self.one_hot_input and not (self.one_hot_embedding and self.self_connection in ("linear", "indexed")):
            raise ValueError("one_hot_input needs one_hot_embedding and the self_connection linear or indexed")
        if self.switch_on is not None and self.switch_on >= self.r_max:
            raise ValueError(f"switch_on must be less than r_max, {self.r_max} Å")
        return self

    @model_validator(mode="after")
    def _elementwise(self) -> "NequIPConfig":
        count, pairs = len(self.elements), self.pair_cutoffs
        if self.element_neighbors and len(self.element_neighbors) != count:
            raise ValueError(f"element_neighbors needs one number for each of the {count} elements")
        if pairs and {len(pairs), *map(len, pairs)} != {count}:
            raise ValueError(f"pair_cutoffs needs {count} rows of {count} numbers, one for each element")
        if pairs and (max(map(max, pairs)) > self.r_max or self.switch_on is not None):
            raise ValueError(f"pair_cutoffs must be at most r_max, {self.r_max} Å, and needs the polynomial cutoff")
        return self

    def _tables_of(self, places: tuple[int, ...]) -> dict[str, Any]:
        return super()._tables_of(places) | {
            "element_neighbors": tuple(self.element_neighbors[i] for i in places if self.element_neighbors),
            "pair_cutoffs": tuple(tuple(self.pair_cutoffs[i][j] for j in places) for i in places if self.pair_cutoffs),
        }

    def neighbors_of(self, block: int) -> float:
        """The average number of neighbours for which a block is normalised."""
        average = self.average_neighbors
        return average[block] if isinstance(average, tuple) else average


InteractionKind = Literal["plain", "residual", "density", "density_residual", "nonlinear"]
"""Kinds of interactions of MACE, see `MACEConfig`."""


class MACEConfig(ArchitectureConfig, frozen=True):
    """A MACE network (Batatia et al. 2022, arXiv:2206.07697) with scale, shift and a force-σ head.

    Kinds of interactions: `plain` mixes the channels of messages by element; `residual` mixes those of the atom's
    features by element and adds them instead (self-connection). Both divide messages by `average_neighbors`; `density`
    and `density_residual` are the same with a learnt density of the neighbours plus one instead. `nonlinear` (Batatia
    et al. 2025, arXiv:2510.25380) has radial networks that see the elements, a gate after the messages, and a
    self-connection that is the same for all elements.
    """

    architecture: Literal["mace"] = "mace"
    declared_elements: PositiveInt = Field(default_factory=lambda known: len(known["elements"]))
    """Number of elements for which the weights are normalised: that of the unrestricted model."""
    hidden_irreps: str
    """Features between interactions: 0e and possibly 1o, 2e, 3o, all of the same width, e.g. '128x0e+128x1o'."""
    num_interactions: PositiveInt
    """Interactions; the last one has scalar outputs only."""
    first_interaction: InteractionKind = "residual"
    """Kind of the first interaction."""
    interaction: InteractionKind = "residual"
    """Kind of the others."""
    edge_irreps: str | None = None
    """Features that atoms send to their neighbours, from the second interaction on, e.g. '32x0e+32x1o': some or all
    irreps of `hidden_irreps`, of another width. None: all, of the same width."""
    edge_irreps_first: bool = False
    """Whether the scalars that atoms send in the first interaction also have the width of `edge_irreps`."""
    max_ell: Annotated[int, Field(ge=1, le=3)]
    """Highest degree of the spherical harmonics and of the messages."""
    correlation: Annotated[int, Field(ge=1, le=3)]
    """Highest number of factors in products of messages: body order minus one."""
    num_bessels: PositiveInt = 8
    cutoff_power: PositiveInt = 5
    """Exponent p of the polynomial cutoff (Gasteiger et al. 2020)."""
    apply_cutoff: bool = True
    """Whether the cutoff multiplies the radial functions; otherwise it multiplies the messages and densities."""
    distance_transform: DistanceTransform | None = None
    """Function of the distance that the radial functions depend on; None: the distance itself."""
    radial_widths: tuple[PositiveInt, ...] = (64, 64, 64)
    """Hidden widths of the radial networks."""
    agnostic_product: bool = False
    """Whether products have the same weights for all elements."""
    readout_width: PositiveInt = 16
    """Hidden width of the last readout; the others are linear."""
    readout_bias: bool = False
    """Whether the last readout has a second hidden layer, and biases."""
    last_readout_only: bool = False
    """Whether there are no other readouts."""
    average_neighbors: PositiveFloat
    """Messages are divided by this number in interactions without a density."""
    sigma_widths: tuple[PositiveInt, ...] = (64, 16)
    """Hidden widths of the MLP from the invariant features of all interactions to log σ."""
    energy_scale: PositiveFloat
    """Factor on the sum of the readouts, eV."""
    energy_shift: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Added to the network's energy of every atom, eV."""
    pair_repulsion: PairRepulsion | None = None
    """Repulsion of the nuclei. It is one more term of the sum that is scaled: mace-torch scales it too."""
    head: Annotated[str, Field(max_length=200)] | None = None
    """Name of the head of the original file that this is; None if that has only one."""

    @property
    def width(self) -> int:
        """Number of channels of every irrep."""
        return next(mul for mul, _ in e3nn.Irreps(self.hidden_irreps))

    @property
    def hidden(self) -> tuple[str, ...]:
        """Irreps between interactions, in the order of the configuration."""
        return tuple(str(ir) for _, ir in e3nn.Irreps(self.hidden_irreps))

    @property
    def edge_width(self) -> int:
        """Number of channels of every irrep that atoms send."""
        return next(mul for mul, _ in e3nn.Irreps(self.edge_irreps or self.hidden_irreps))

    @property
    def edges(self) -> tuple[str, ...]:
        """Irreps that atoms send, in the order of the configuration."""
        return tuple(str(ir) for _, ir in e3nn.Irreps(self.edge_irreps or self.hidden_irreps))

    def kind(self, i: int) -> "InteractionKind":
        """The kind of interaction i."""
        return self.first_interaction if i == 0 else self.interaction

    @field_validator("hidden_irreps", "edge_irreps")
    @classmethod
    def _equal_widths(cls, value: str | None) -> str | None:
        if value is None:
            return None
        irreps = _irreps(value)
        natural = all(ir.p == (-1) ** ir.l for _, ir in irreps)
        if not natural or irreps.count(e3nn.Irrep(0, 1)) == 0 or len({mul for mul, _ in irreps}) != 1:
            raise ValueError("must contain 0e and otherwise only 1o, 2e, 3o, all equally often, e.g. '16x0e+16x1o'")
        return str(irreps)

    @model_validator(mode="after")
    def _consistent(self) -> "MACEConfig":
        if self.declared_elements < len(self.elements):
            raise ValueError(f"declared_elements must be at least the number of elements, {len(self.elements)}")
        if not self.radial_widths:
            raise ValueError("radial_widths needs at least one width")
        highest = min(3, self.max_ell * self.correlation)
        if any(ir.l > highest for _, ir in e3nn.Irreps(self.hidden_irreps)):
            raise ValueError(f"hidden_irreps must not exceed the degree {highest}, from max_ell and correlation")
        return self

    @model_validator(mode="after")
    def _usable(self) -> "MACEConfig":
        if not set(self.edges) <= set(self.hidden):
            raise ValueError(f"edge_irreps must be among the irreps of hidden_irreps, {', '.join(self.hidden)}")
        if self.edge_irreps_first and self.edge_irreps is None:
            raise ValueError("edge_irreps_first needs edge_irreps")
        kinds = {self.kind(i) for i in range(self.num_interactions)}
        if self.apply_cutoff and "nonlinear" in kinds:
            raise ValueError("apply_cutoff must be false with nonlinear interactions: energies would jump at r_max")
        if self.last_readout_only and self.num_interactions == 1:
            raise ValueError("last_readout_only needs two interactions or more")
        return self
