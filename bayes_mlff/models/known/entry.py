"""What is known about a model that has a name."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from bayes_mlff.data.level import Level


class Licence(NamedTuple):
    """Terms of a model's weights."""

    name: str
    title: str
    address: str  # of its text
    commercial: bool = True  # whether commercial use is allowed


MIT: Final = Licence("MIT", "MIT License", "https://opensource.org/license/mit")
CC_BY: Final = Licence(
    "CC-BY-4.0", "Creative Commons Attribution 4.0", "https://creativecommons.org/licenses/by/4.0/legalcode"
)
ASL: Final = Licence("ASL", "Academic Software License", "https://github.com/gabor1/ASL", commercial=False)


class Shipped(NamedTuple):
    """A file that comes with this package."""

    file: str  # in the folder `pretrained`


class InPackage(NamedTuple):
    """A file that comes with another Python package."""

    package: str
    path: str  # from the folder of the package
    sha256: str
    extra: str  # of this package, which installs the other one

    @property
    def suffix(self) -> str:
        """End of the file's name."""
        return "." + self.path.rpartition(".")[2]


class Download(NamedTuple):
    """A file on the internet."""

    url: str
    suffix: str = ".model"  # of the name under which it is kept
    sha256: str | None = None  # None: not known; that of the first download is recorded

    @property
    def file(self) -> str:
        """Name of the file at its address."""
        return self.url.rpartition("/")[2].partition("?")[0]


Source = Shipped | InPackage | Download


COLD_STEPS: Final = 400
BATCH_SIZE: Final = 5
"""Values of presets that say nothing else."""


class Preset(NamedTuple):
    """Settings of prior and chains from which fine-tuning a model should start."""

    prior_scale: float  # σ_TL, the standard deviation of the transfer prior
    step_size: float  # γ0, the first step size of short chains
    cold_steps: int = COLD_STEPS  # first steps at temperature 0
    batch_size: int = BATCH_SIZE  # labelled structures in a minibatch
    found: str = ""  # how these values were found

    @property
    def keys(self) -> dict[str, float | int]:
        """The values by the keys of a configuration."""
        return {
            "prior.scale": self.prior_scale,
            "sampler.step_size": self.step_size,
            "sampler.cold_steps": self.cold_steps,
            "sampler.batch_size": self.batch_size,
        }

    @property
    def text(self) -> str:
        """The values with their keys, in one line."""
        return ", ".join(f"{key} {value:g}" for key, value in self.keys.items())


class Entry(NamedTuple):
    """A model that a configuration can name."""

    name: str
    architecture: str  # name of a row of `architectures`
    elements: str
    level: Level  # of the training data; with several heads, of the first one
    data: str  # the training data
    licence: Licence
    source: Source
    citation: str
    cutoff: float | None  # Å; None: not known
    weights: int | None = None  # in the published file, without our σ head; None: not known
    cost: float | None = None  # of a step, relative to `catalogue.CHEAPEST`; None: not measured
    heads: Mapping[str, Level] = {}  # levels by head, where a file has several; one is chosen by the key `head`
    zero: str = "one energy for each element, in the file, on the scale of the training data"  # reference energies
    preset: Preset | None = None  # None: that of the family, or of the architecture
    family: str = ""  # of `presets.PRESETS`, if the model is of one

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the file as it is published, if that is known."""
        return None if isinstance(self.source, Shipped) else self.source.sha256

    def level_of(self, head: str | None) -> Level:
        """Level of theory of a head; without a name that of the model."""
        return self.level if head is None else self.heads.get(head, self.level)
