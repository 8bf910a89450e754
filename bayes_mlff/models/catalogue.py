"""Description of all models that have a name, for the command `models`."""

from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

from ase.data import chemical_symbols
from safetensors import safe_open

from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.core.paths import cache_folder
from bayes_mlff.models import architectures, registry
from bayes_mlff.models.importers.downloads import DOWNLOADS, names, place
from bayes_mlff.models.importers.sevennet_files import CHECKPOINTS, find

MANY: Final = 12
"""If a model has more elements, only their number is shown."""

LICENCE_OF_SEVENN: Final = "MIT, that of the package sevenn 0.13.0"

ELEMENTS: Final[dict[str, str]] = dict.fromkeys(
    (*CHECKPOINTS, "mace-mp-0-small", "mace-mp-0-medium", *names(".nqx")), "89 elements"
)
"""Elements of models whose files may not be on this machine."""


class KnownModel(NamedTuple):
    """Description of one model."""

    name: str
    architecture: str
    elements: str
    size: str
    licence: str
    source: str
    here: str


def known() -> list[KnownModel]:
    """All models that a configuration can name; nothing is downloaded."""
    return [_model(name) for name in registry.NAMES]


def _model(name: str) -> KnownModel:
    if name in registry.SHIPPED:
        path = Path(str(resources.files("bayes_mlff.models") / "pretrained" / registry.SHIPPED[name]))
        return KnownModel(name, *_read(path), "MIT", "comes with this package", "here")
    if name in CHECKPOINTS:
        path = registry.cached(name, CHECKPOINTS[name].sha256)
        here = f"converted in {path}" if path.is_file() else _installed(name)
        return KnownModel(name, *_described(name, path), LICENCE_OF_SEVENN, "from the package sevenn", here)
    if name not in DOWNLOADS:
        return KnownModel(name, *_described(name, Path()), "that of its project", "from another project", "unknown")
    origin = DOWNLOADS[name]
    downloaded = place(name, origin)
    path = next(iter(sorted(cache_folder().glob(f"{name}-*-v{registry.LAYOUT}.safetensors"))), Path())
    here = f"downloaded to {downloaded}" if downloaded.is_file() else "not here; downloaded at the first use"
    return KnownModel(name, *_described(name, path), origin.licence, origin.url, here)


def _installed(name: str) -> str:
    try:
        return f"in {find(name, 'model')}"
    except (ConfigError, WeightsError):
        return "not here; pip install 'bayes-mlff[sevennet]'"


def _described(name: str, path: Path) -> tuple[str, str, str]:
    """The result of `_read`, or what is known without the file if it does not exist."""
    if path.is_file():
        return _read(path)
    row = next(row for row in architectures.ARCHITECTURES.values() if name in row.published)
    return _title(row.config), ELEMENTS.get(name, "its elements"), "number of weights known once it was used"


def _title(config: type) -> str:
    return config.__name__.removesuffix("Config")


def _read(path: Path) -> tuple[str, str, str]:
    """Architecture, elements and size of a model in a file of this package."""
    with safe_open(path, framework="numpy") as file:
        config = architectures.read_config((file.metadata() or {})["config"])
        weights = sum(file.get_tensor(key).size for key in file.keys())  # noqa: SIM118 (not a dict)
    symbols = [chemical_symbols[z] for z in config.elements]
    elements = " ".join(symbols) if len(symbols) <= MANY else f"{len(symbols)} elements"
    return _title(type(config)), elements, f"{weights:,} weights".replace(",", " ")
