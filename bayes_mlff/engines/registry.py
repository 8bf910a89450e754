"""Which reference engines can be named in a configuration."""

from pathlib import Path
from typing import Annotated, get_args

from pydantic import Field

from bayes_mlff.engines.ase_engine import AseEngine, AseSettings
from bayes_mlff.engines.chgnet import ChgnetEngine, ChgnetSettings
from bayes_mlff.engines.engine import Engine, VerifiedEngine
from bayes_mlff.engines.gpaw.engine import GpawEngine
from bayes_mlff.engines.gpaw.settings import GpawSettings
from bayes_mlff.engines.pyscf.engine import PyscfEngine, PyscfSettings
from bayes_mlff.engines.worker.engine import WorkerEngine, WorkerSettings

AnySettings = PyscfSettings | AseSettings | WorkerSettings | GpawSettings | ChgnetSettings

NAMES = tuple(kind.model_fields["name"].default for kind in get_args(AnySettings))

EngineSettings = Annotated[AnySettings, Field(discriminator="name")]
"""Settings of any engine; the field `name` says of which."""


def make_engine(settings: AnySettings, directory: Path | None = None, *, base: Path | None = None) -> VerifiedEngine:
    """Turn settings into a working engine, once, when a run starts.

    Args:
      settings: validated settings of one engine.
      directory: of the run, which may not exist yet; engines with files write into its folder `engine`.
      base: folder of the configuration, for the modules and files that it names.

    Returns:
      The engine, with the checks of `verified_label` around it.

    Raises:
      EngineSetupError: if a package is missing, naming the command that installs it.
    """
    return VerifiedEngine(
        _make(settings, directory, base),
        min_distance_angstrom=settings.min_distance_angstrom,
        subtract_net_force=settings.subtract_net_force,
    )


def _make(settings: AnySettings, directory: Path | None, base: Path | None) -> Engine:
    match settings:
        case PyscfSettings():
            return PyscfEngine(settings)
        case AseSettings():
            return AseEngine(settings, directory, base=base)
        case WorkerSettings():
            return WorkerEngine(settings, directory, base=base)
        case GpawSettings():
            return GpawEngine(settings, directory)
        case ChgnetSettings():
            return ChgnetEngine(settings, directory)
