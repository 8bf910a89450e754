"""Settings of a GPAW calculation, and their conversion to arguments of GPAW's calculator."""

import math
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from bayes_mlff.core.errors import EngineSetupError
from bayes_mlff.core.numbers import largest_divisor, usable_cores
from bayes_mlff.data.level import Level, named
from bayes_mlff.engines.engine import CommonSettings
from bayes_mlff.engines.worker.engine import WorkerSettings
from bayes_mlff.engines.worker.process import Mpi, child_environment, find_python

CALCULATOR: Final = "gpaw:GPAW"
CLEAN_CUTOFF_EV: Final = 600.0
"""From this plane-wave cutoff on, the net force is so small that it is not subtracted by default."""

CONVERGENCE: Final[Mapping[str, dict[str, JsonValue]]] = {
    "loose": {"density": 1e-3, "energy": 1e-3, "eigenstates": 1e-4},
    "default": {},
    "tight": {"density": 1e-5, "energy": 1e-5, "eigenstates": 1e-8},
}
"""GPAW's criteria: electrons/electron, eV/electron, eV²/electron."""

LARGEST_VIRIAL_EV: Final = 1e5
"""Larger corrections are refused as mistakes."""

BUILT_WITH_MPI: Final = "import _gpaw, sys; sys.exit(not hasattr(_gpaw, 'Communicator'))"

MPI_ENVIRONMENT: Final[Mapping[str, str]] = {
    "GPAW_MPI_BACKEND": "cgpaw",
    # By default Open MPI allows one process per core, binds processes of all runs to the same cores, and refuses root.
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}

RETRIES: Final[tuple[dict[str, JsonValue], ...]] = (
    {"mixer": {"backend": "pulay", "beta": 0.02, "nmaxold": 5, "weight": 100.0}, "maxiter": 600},
    {"mixer": {"backend": "pulay", "beta": 0.005, "nmaxold": 3, "weight": 100.0}, "maxiter": 1200},
)
"""Further attempts: stronger damping of the density, and more iterations."""


class Hubbard(BaseModel):
    """The +U correction of one element (Dudarev et al. 1998, Phys. Rev. B 57, 1505)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    orbital: Literal["s", "p", "d", "f"] = Field(
        default="d", description="Angular momentum of the orbitals that the correction acts on."
    )
    u_ev: float = Field(gt=0.0, description="Effective interaction U - J of the correction, eV.")


class GpawSettings(CommonSettings):
    """Plane-wave PAW density functional theory with GPAW, in a separate process."""

    name: Literal["gpaw"] = Field(default="gpaw", description="Reference method: GPAW with plane waves.")
    xc: str = Field(default="PBE", description="Exchange-correlation functional as GPAW spells it.")
    cutoff_ev: float = Field(default=400.0, ge=100.0, description="Plane-wave cutoff of the orbitals, eV.")
    kpts: tuple[tuple[float, float, float], ...] | tuple[int, int, int] = Field(
        default=((0.25, 0.25, 0.25),),
        description="List of k-points in fractions of the reciprocal cell vectors, or a Γ-centred grid such as [2, 2, "
        "2].",
    )
    smearing_ev: float = Field(
        default=0.05, ge=0.0, description="Width of the Fermi-Dirac distribution of the occupations, eV."
    )
    convergence: Literal["loose", "default", "tight"] = Field(
        default="loose",
        description="Convergence of the self-consistent field: default has GPAW's own criteria, loose weaker and tight "
        "stricter ones.",
    )
    hubbard: dict[str, Hubbard] = Field(
        default_factory=dict,
        description="Hubbard corrections by element, such as {Mn: {orbital: d, u_ev: 4.0}}, without GPAW's "
        "normalisation.",
    )
    magmoms: tuple[float, ...] | dict[str, float] | None = Field(
        default=None,
        description="Initial magnetic moments, μB: one for each atom, or one for each magnetic element; null means "
        "those of the structure, if any.",
    )
    magnetic_order: Literal["ferromagnetic", "A-AFM"] = Field(
        default="ferromagnetic",
        description="Signs of moments by element: ferromagnetic for equal ones, A-AFM for signs that alternate from "
        "plane to plane along c.",
    )
    stress: Literal["none", "raw", "pulay-corrected"] = Field(
        default="none",
        description="Stress of labels: none, raw, or pulay-corrected; below some 800 eV the raw stress is off by "
        "several GPa, since the basis set depends on the cell.",
    )
    pulay_cutoff_ev: float = Field(
        default=800.0, ge=100.0, description="Cutoff of the one calculation to which the stress is corrected, eV."
    )
    pulay_virial_ev: tuple[float, float, float, float, float, float] | None = Field(
        default=None,
        description="Correction of the stress times the volume, eV, in the order xx yy zz yz xz xy, as an earlier run "
        "at this level found it; null means that it is calculated at the start.",
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=3,
        description="Number of attempts at self-consistency; the second and third start afresh with more damping.",
    )
    max_iterations: int = Field(
        default=333,
        ge=1,
        description="Largest number of iterations of the first attempt; the others have 600 and 1200.",
    )
    python: str | None = Field(
        default=None, description="Path of the Python interpreter that has GPAW; null means the one of the run."
    )
    timeout_s: float = Field(
        default=7200.0,
        gt=0.0,
        description="Longest time of a calculation, s; after it the process is killed and the label counts as failed.",
    )
    threads: int = Field(default=1, ge=1, description="Number of OpenMP and BLAS threads of the process.")
    processes: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default=1,
        description="Number of MPI processes of a calculation; auto means one for each k-point, as far as there are "
        "cores, where GPAW was built with MPI.",
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="Further environment variables of the process, by name."
    )

    def __hash__(self) -> int:
        """Hash by value, since mappings have no hash of their own."""
        return hash(self.model_dump_json())

    @model_validator(mode="before")
    @classmethod
    def _net_force(cls, raw: Any) -> Any:
        """Subtract the net force by default at low cutoffs, where it is about 0.1 eV/Å."""
        if not isinstance(raw, dict) or "subtract_net_force" in raw:
            return raw
        try:
            low = float(raw.get("cutoff_ev", cls.model_fields["cutoff_ev"].default)) < CLEAN_CUTOFF_EV
        except (TypeError, ValueError):
            return raw  # the cutoff itself is refused later
        return {**raw, "subtract_net_force": low}

    @property
    def gives_stress(self) -> bool:
        """True if the stress of periodic structures is calculated."""
        return self.stress != "none"

    @property
    def level(self) -> Level | None:
        """See `CommonSettings.level`."""
        return named(self.xc, hubbard=tuple(self.hubbard))

    @field_validator("kpts")
    @classmethod
    def _grid(cls, value: tuple) -> tuple:
        if not value or (isinstance(value[0], int) and min(value) < 1):
            raise ValueError("three positive numbers of k-points, or a list of fractional k-points")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.magnetic_order != "ferromagnetic" and not isinstance(self.magmoms, dict):
            raise ValueError("magnetic_order goes with magmoms by element, such as {Mn: 4.0}")
        if self.stress == "pulay-corrected" and self.pulay_cutoff_ev <= self.cutoff_ev:
            raise ValueError("pulay_cutoff_ev must exceed cutoff_ev")
        if self.pulay_virial_ev is not None:
            if self.stress != "pulay-corrected":
                raise ValueError("pulay_virial_ev goes with stress: pulay-corrected")
            if not all(abs(x) <= LARGEST_VIRIAL_EV for x in self.pulay_virial_ev):
                raise ValueError(f"pulay_virial_ev: at most {LARGEST_VIRIAL_EV:g} eV either way")
        return self


def mpi_of(settings: GpawSettings) -> Mpi | None:
    """How to start GPAW's MPI processes; None for a single process.

    Raises:
      EngineSetupError: if the interpreter or `mpiexec` is missing, or GPAW was built without MPI.
    """
    wanted = settings.processes
    if wanted == 1:
        return None
    python = find_python(settings.python)
    mpiexec = _mpiexec(python)
    environment = child_environment(python, settings.threads, settings.environment)
    found = subprocess.run([python, "-c", BUILT_WITH_MPI], env=environment, capture_output=True, check=False)
    built = found.returncode == 0
    if wanted == "auto":
        wanted = largest_divisor(_kpt_count(settings), usable_cores()) if built and mpiexec is not None else 1
        if wanted == 1:
            return None
    if mpiexec is None or not built:
        lacking = "no mpiexec beside the interpreter or on PATH" if built else f"no GPAW built with MPI in {python}"
        raise EngineSetupError(
            f"engine.processes: got {wanted}; {lacking}; python -m bayes_mlff.engines.gpaw.install, or processes: 1"
        )
    return Mpi((mpiexec, "-n", str(wanted)), "gpaw.mpi", MPI_ENVIRONMENT)


def _mpiexec(python: str) -> str | None:
    beside = Path(python).with_name("mpiexec")
    return str(beside) if beside.is_file() else shutil.which("mpiexec")


def _kpt_count(settings: GpawSettings) -> int:
    kpts = settings.kpts
    return math.prod(k for k in kpts if isinstance(k, int)) if isinstance(kpts[0], int) else len(kpts)


def gpaw_arguments(settings: GpawSettings) -> dict[str, JsonValue]:
    """Keyword arguments of GPAW's calculator, as JSON."""
    s = settings
    arguments: dict[str, JsonValue] = {
        "mode": {"name": "pw", "ecut": s.cutoff_ev},
        "xc": s.xc,
        "kpts": _kpts(s),
        "occupations": {"name": "fermi-dirac", "width": s.smearing_ev},
        "convergence": CONVERGENCE[s.convergence],
        "maxiter": s.max_iterations,
        "symmetry": "off",
        "txt": "gpaw.txt",
    }
    if s.hubbard:
        arguments["setups"] = {
            # The last number switches off the normalisation by the truncated projector.
            element: f":{u.orbital},{u.u_ev!r},0"
            for element, u in sorted(s.hubbard.items())
        }
    return arguments


def _kpts(settings: GpawSettings) -> JsonValue:
    rows: list[JsonValue] = [list(k) if isinstance(k, tuple) else k for k in settings.kpts]
    return {"size": rows, "gamma": True} if isinstance(settings.kpts[0], int) else rows


def worker_settings(settings: GpawSettings) -> WorkerSettings:
    """Settings of the process that runs GPAW, without magnetic moments, which depend on the structure."""
    s = settings
    return WorkerSettings(
        calculator=CALCULATOR,
        arguments=gpaw_arguments(s),
        retries=RETRIES[: s.max_attempts - 1],
        stress=s.stress != "none",
        # Starting from density and orbitals of an older geometry takes more iterations than starting from atoms.
        reuse_calculator=False,
        python=s.python,
        timeout_s=s.timeout_s,
        threads=s.threads,
        environment=s.environment,
    )
