"""The reference engines that a configuration can name."""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

from pydantic import Field

from bayes_mlff.engines.ase_engine import AseEngine, AseSettings
from bayes_mlff.engines.chgnet import ChgnetEngine, ChgnetSettings
from bayes_mlff.engines.engine import CommonSettings, Engine
from bayes_mlff.engines.gpaw.engine import GpawEngine
from bayes_mlff.engines.gpaw.settings import GpawSettings
from bayes_mlff.engines.pyscf.engine import PyscfEngine, PyscfSettings
from bayes_mlff.engines.verified import VerifiedEngine
from bayes_mlff.engines.worker.engine import WorkerEngine, WorkerSettings


class MakeEngine(Protocol):
    """Makes an engine from its settings, without any calculation."""

    def __call__(self, settings: Any, directory: Path | None, *, base: Path | None) -> Engine:
        """See `make_engine`."""
        ...


ENGINES: Final[Mapping[type[CommonSettings], MakeEngine]] = MappingProxyType(
    {
        PyscfSettings: PyscfEngine,
        AseSettings: AseEngine,
        WorkerSettings: WorkerEngine,
        GpawSettings: GpawEngine,
        ChgnetSettings: ChgnetEngine,
    }
)
"""Constructor of the engine for each settings class; the field `name` of the settings selects the class."""

NAMES: Final = tuple(settings.model_fields["name"].default for settings in ENGINES)

if TYPE_CHECKING:
    EngineSettings = CommonSettings
else:
    EngineSettings = Annotated[reduce(or_, ENGINES), Field(discriminator="name")]
    """Settings of any engine; the field `name` selects it."""


def make_engine(settings: CommonSettings, directory: Path | None = None, *, base: Path | None = None) -> VerifiedEngine:
    """Make an engine from settings; done once, when a run starts.

    Args:
      settings: validated settings of one engine of `ENGINES`.
      directory: run directory, which may not exist yet; engines write files into its folder `engine`.
      base: folder of the configuration, for modules and files that the settings name.

    Returns:
      The engine, with the checks of `verified_label`.

    Raises:
      EngineSetupError: if a package is missing, naming the command that installs it.
    """
    return VerifiedEngine(
        ENGINES[type(settings)](settings, directory, base=base),
        min_distance_angstrom=settings.min_distance_angstrom,
        subtract_net_force=settings.subtract_net_force,
    )
