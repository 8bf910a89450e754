"""Table of the architectures; all differences between them that the rest of the package needs are in its rows.

A new architecture is a module with a subclass of `ArchitectureConfig` and a network, which has the arguments of
`NequIP` and computes its force σ with `force_sigma`; and a row here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Generic, NamedTuple, Protocol, TypeVar, Union

import flax.linen as nn
from pydantic import Field, TypeAdapter

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.models import catalogue, equiformer_v2, mace, nequip
from bayes_mlff.models.config import ArchitectureConfig, Imported, MACEConfig, NequIPConfig
from bayes_mlff.models.energetics import Params
from bayes_mlff.models.equiformer_v2_config import EquiformerV2Config
from bayes_mlff.models.importers import (
    downloads,
    equiformer_v2_files,
    mace_files,
    nequip_files,
    nequix_files,
    sevennet_files,
)
from bayes_mlff.models.importers.telling import Listener
from bayes_mlff.models.known import presets as known_presets
from bayes_mlff.models.known.entry import Download, InPackage, Preset

C = TypeVar("C", bound=ArchitectureConfig)


class Writer(Protocol):
    """Writes weights as files of another program, one for each chain."""

    def __call__(
        self, config: Any, chains: Sequence[Params], template: Path, paths: Sequence[Path], *, trust: bool
    ) -> None:
        """Write the chains; everything except the weights comes from a template; see `mace_files.write_models`."""
        ...


class FileFormat(NamedTuple):
    """A file format of another program that contains a model with its architecture."""

    program: str
    suffix: str
    """End of the names of such files, which may have several dots."""
    read: Callable[..., Imported]  # of the path, and of the keyword head where models may have several heads
    write: Writer | None = None
    heads: bool = False  # whether models may have several heads


class Family(NamedTuple):
    """Models of one architecture that want other settings than its others."""

    name: str
    has: Callable[[Any], bool]  # whether a configuration is of this family
    preset: Preset


class Published(NamedTuple):
    """A model of another project that has a known name."""

    find: Callable[[str, str, Listener], tuple[Path, str]]  # (name, dotted key, listener) -> file and its SHA-256
    form: FileFormat
    digest: str | None = None  # the SHA-256, if it is known without the file


@dataclass(frozen=True)
class Architecture(Generic[C]):
    """What the rest of the package needs to know about one architecture."""

    config: type[C]
    """Class of its settings; the default of the field `architecture` is its name."""
    network: Callable[[C], nn.Module]
    """Makes the network with these settings."""
    element_axis: Callable[[C, tuple[str, ...]], int | None]
    """Axis of the parameter at a path that is indexed by element; None if there is none."""
    most_layers: Callable[[C], int]
    """The larger of the numbers of blocks and layers; a file must have at least as many arrays."""
    last_layer: Callable[[C], tuple[str, ...]]
    """Path of the weights of the last linear layer of the (last) energy readout; energies are linear in them."""
    preset: Preset
    """Settings of prior and chains for models that have no preset of their own; see `presets`."""
    widened: Callable[[Params], Params]
    """Changes random weights of unit variance so that training can start from them."""
    per_element: Callable[[C, Params], tuple[C, Params]]
    """Replaces weights on an element embedding by weights for each element, with equal energies; else no change."""
    conservative: Callable[[C], bool] = lambda config: True
    """Whether forces are the gradient of the energy; otherwise there is no dynamics at constant energy."""
    families: tuple[Family, ...] = ()
    """Families of models with presets of their own."""
    formats: tuple[FileFormat, ...] = ()
    """File formats of other programs that can be read and, some of them, written."""
    published: Mapping[str, Published] = field(default_factory=dict)
    """Models of other projects by the name used in configurations."""

    @property
    def name(self) -> str:
        """Name of the architecture, as in files."""
        return self.config.model_fields["architecture"].default


def _find(name: str, key: str, listener: Listener) -> tuple[Path, str]:
    """The file of a model of another project and its SHA-256; downloaded if it is not here."""
    known = catalogue.ENTRIES[name]
    if isinstance(known.source, InPackage):
        return sevennet_files.find(name, key, known.source), known.source.sha256
    assert isinstance(known.source, Download)
    return downloads.fetch(known, known.source, key, listener=listener)


def _published(architecture: str, formats: Sequence[FileFormat]) -> dict[str, Published]:
    """The models of the catalogue that other projects have published, as files of these formats."""
    by_suffix = {form.suffix: form for form in formats}
    return {
        known.name: Published(_find, by_suffix[known.source.suffix], known.sha256)
        for known in catalogue.ENTRIES.values()
        if known.architecture == architecture and isinstance(known.source, Download | InPackage)
    }


_NEQUIP_FORMATS: Final = (
    FileFormat("nequix", ".nqx", nequix_files.read_model),
    FileFormat("nequip", nequip_files.SUFFIX, nequip_files.read_model),
    FileFormat("sevenn", ".pth", sevennet_files.read_model, heads=True),
)

_MACE_FORMATS: Final = (FileFormat("mace-torch", ".model", mace_files.read_model, mace_files.write_models, heads=True),)

_NEQUIP: Final = Architecture(
    config=NequIPConfig,
    network=nequip.NequIP,
    element_axis=nequip.element_axis,
    most_layers=nequip.most_layers,
    last_layer=nequip.last_layer,
    preset=known_presets.NEQUIP,
    widened=nequip.widened,
    per_element=nequip.per_element,
    # Only Nequix normalises its activations in this way.
    families=(Family("Nequix", lambda config: config.activation_norm == "e3nn-jax", known_presets.NEQUIX),),
    formats=_NEQUIP_FORMATS,
    published=_published("nequip", _NEQUIP_FORMATS),
)

_MACE: Final = Architecture(
    config=MACEConfig,
    network=mace.MACE,
    element_axis=mace.element_axis,
    most_layers=lambda config: config.num_interactions,
    last_layer=mace.last_layer,
    preset=known_presets.MACE,
    widened=lambda params: params,
    per_element=lambda config, params: (config, params),  # it already has weights for each element
    formats=_MACE_FORMATS,
    published=_published("mace", _MACE_FORMATS),
)

_EQUIFORMER_V2_FORMATS: Final = (FileFormat("fairchem", equiformer_v2_files.SUFFIX, equiformer_v2_files.read_model),)

_EQUIFORMER_V2: Final = Architecture(
    config=EquiformerV2Config,
    network=equiformer_v2.EquiformerV2,
    element_axis=equiformer_v2.element_axis,
    most_layers=lambda config: config.num_layers,
    last_layer=equiformer_v2.last_layer,
    preset=known_presets.EQUIFORMER_V2,
    widened=lambda params: params,  # norms keep features at unit size
    per_element=lambda config, params: (config, params),
    conservative=lambda config: config.forces == "gradient",
    formats=_EQUIFORMER_V2_FORMATS,
    published=_published("equiformer_v2", _EQUIFORMER_V2_FORMATS),
)

ARCHITECTURES: Final[dict[str, Architecture[Any]]] = {row.name: row for row in (_NEQUIP, _MACE, _EQUIFORMER_V2)}
"""All architectures by name."""


def of(config: ArchitectureConfig) -> Architecture[Any]:
    """The row for the architecture of a configuration.

    Raises:
      ValueError: if the architecture is not in the table.
    """
    row = ARCHITECTURES.get(config.architecture)
    if row is None:
        raise ValueError(f"architecture: got {config.architecture!r}; allowed: one of {sorted(ARCHITECTURES)}")
    return row


def read_config(text: str) -> ArchitectureConfig:
    """Read the configuration of any architecture from JSON.

    Raises:
      ValidationError: if it is not valid.
    """
    return _reader(tuple(row.config for row in ARCHITECTURES.values())).validate_json(text)


@cache
def _reader(kinds: tuple[type[ArchitectureConfig], ...]) -> TypeAdapter[ArchitectureConfig]:
    # A type checker cannot follow that the members of the union are known only at run time.
    return TypeAdapter(Annotated[Union[kinds], Field(discriminator="architecture")])  # noqa: UP007  # pyright: ignore


def formats() -> tuple[FileFormat, ...]:
    """File formats of other programs, for all architectures."""
    return tuple(form for row in ARCHITECTURES.values() for form in row.formats)


def format_of(path: Path) -> FileFormat | None:
    """File format of another program by the end of a file's name; None if it is of this package or unknown."""
    return next((form for form in formats() if path.name.endswith(form.suffix)), None)


def written_format(config: ArchitectureConfig) -> tuple[FileFormat, Writer]:
    """File format of another program to which weights of an architecture can be written.

    Raises:
      ConfigError: if there is none.
    """
    for form in of(config).formats:
        if form.write is not None:
            return form, form.write
    able = sorted(row.name for row in ARCHITECTURES.values() if any(form.write for form in row.formats))
    raise ConfigError(
        "--what",
        "model",
        f"ensemble or chains with {config.architecture}: other programs get files of {', '.join(able)} alone",
    )


def published() -> dict[str, Published]:
    """Models of other projects by name, of all architectures."""
    return {name: model for row in ARCHITECTURES.values() for name, model in row.published.items()}
