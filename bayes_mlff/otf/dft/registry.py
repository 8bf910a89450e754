"""Which reference engines can be named in a configuration."""

from typing import Annotated

from pydantic import Field

from bayes_mlff.otf.dft.ase_engine import AseEngine, AseSettings
from bayes_mlff.otf.dft.engine import Engine, VerifiedEngine
from bayes_mlff.otf.dft.pyscf_engine import PyscfEngine, PyscfSettings

EngineSettings = Annotated[PyscfSettings | AseSettings, Field(discriminator="name")]
"""Settings of any engine; the field `name` says of which."""


def make_engine(settings: PyscfSettings | AseSettings) -> VerifiedEngine:
    """Turn settings into a working engine, once, when a run starts.

    Args:
      settings: validated settings of one engine.

    Returns:
      The engine, with the checks of `verified_label` around it.

    Raises:
      EngineSetupError: if a package is missing, naming the command that installs it.
    """
    engine: Engine = PyscfEngine(settings) if isinstance(settings, PyscfSettings) else AseEngine(settings)
    return VerifiedEngine(
        engine,
        min_distance_angstrom=settings.min_distance_angstrom,
        subtract_net_force=settings.subtract_net_force,
    )
