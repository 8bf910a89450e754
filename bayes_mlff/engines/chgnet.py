"""CHGNet (Deng et al. 2023, Nat. Mach. Intell. 5, 1031) as a substitute for density functional theory, for trials."""

from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.level import Level
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.engine import CommonSettings
from bayes_mlff.engines.worker.engine import WorkerEngine, WorkerSettings
from bayes_mlff.models.known.levels import MATERIALS_PROJECT

CALCULATOR: Final = "chgnet.model.dynamics:CHGNetCalculator"


class ChgnetSettings(CommonSettings):
    """A universal potential as a substitute for the reference method."""

    name: Literal["chgnet"] = Field(default="chgnet", description="Reference method: the CHGNet model, for crystals.")
    stress: bool = Field(
        default=True, description="Whether the stress of periodic structures is calculated; npt needs it."
    )
    python: str | None = Field(
        default=None, description="Path of the Python interpreter that has CHGNet; null means the one of the run."
    )
    timeout_s: float = Field(
        default=600.0,
        gt=0.0,
        description="Longest time of a calculation, s; after it the process is killed and the label counts as failed.",
    )
    threads: int = Field(default=1, ge=1, description="Number of OpenMP and BLAS threads of the process.")

    @property
    def gives_stress(self) -> bool:
        """True if the stress of periodic structures is calculated."""
        return self.stress

    @property
    def level(self) -> Level | None:
        """See `CommonSettings.level`: that of MPtrj, on which CHGNet was trained."""
        return MATERIALS_PROJECT


class ChgnetEngine(WorkerEngine):
    """An `Engine` that runs CHGNet on the CPU in a separate process."""

    def __init__(self, settings: ChgnetSettings, directory: Path | None = None, *, base: Path | None = None):
        """See `WorkerEngine`."""
        worker = WorkerSettings(
            calculator=CALCULATOR,
            arguments={"use_device": "cpu"},
            stress=settings.stress,
            python=settings.python,
            timeout_s=settings.timeout_s,
            threads=settings.threads,
        )
        super().__init__(worker, directory, base=base)

    def check(self, structure: Structure) -> None:
        """See `Engine.check`; CHGNet cannot take charge or spin into account, so a charge is refused."""
        if structure.electronic.charge:
            raise ConfigError("structure.charge", structure.electronic.charge, "0 with CHGNet, which knows no charge")
        super().check(structure)

    @property
    def description(self) -> str:
        """See `Engine.description`; it says that this is not a real reference method."""
        return "CHGNet (a model, not DFT: labels are a surrogate for trials only), in a process of its own"
