"""Settings of the executor that calculates labels elsewhere."""

import re
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from bayes_mlff.core.settings import Count, Positive, Section

IMPORT_PATH = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")


class ExecutorBase(Section):
    """What all executors have."""

    start_timeout_s: Positive = Field(
        default=300.0,
        description="Longest time, s, that the start waits for a worker that says whether it can label. Workers of "
        "`local` must have answered by then; a queue may take longer, and then the first labels wait for it.",
    )

    @property
    def places(self) -> int | None:
        """Number of labels that can be calculated at once; None if it is not known."""
        return None


class LocalSettings(ExecutorBase):
    """Processes on this machine, which end with it and with the driver; each calculates one label at a time."""

    kind: Literal["local"] = Field(default="local", description="Executor: processes on this machine.")
    workers: Count = Field(default=1, description="Number of processes, each of which has an engine of its own.")
    threads: Count = Field(
        default=1,
        description="Number of OpenMP and BLAS threads of each process, unless the engine has a setting of its own.",
    )

    @property
    def places(self) -> int:
        """Number of labels that can be calculated at once."""
        return self.workers


class ParslSettings(ExecutorBase):
    """Jobs of a cluster's queue, by Parsl (Babuji et al. 2019, HPDC 19); a block is one job.

    Either `provider` and the keys below it describe the jobs, or `config` names an object of Parsl.
    """

    kind: Literal["parsl"] = Field(default="parsl", description="Executor: jobs of a queue, by Parsl.")
    config: str | None = Field(
        default=None,
        description="Import path of a parsl.config.Config, or of a function that makes one, such as my_parsl:config "
        "of a my_parsl.py beside the configuration; for PBS, LSF, Kubernetes and whatever else Parsl knows.",
    )
    provider: Literal["slurm", "local"] = Field(
        default="slurm", description="Where the jobs run: in the queue of SLURM, or on this machine."
    )
    partition: str | None = Field(default=None, description="Partition of SLURM; null means its default.")
    account: str | None = Field(default=None, description="Account of SLURM; null means the user's default.")
    walltime: str = Field(
        default="01:00:00",
        pattern=r"^\d{1,3}:[0-5]\d:[0-5]\d$",
        description="Longest time of a job, HH:MM:SS. A label that is under way at its end is calculated again in the "
        "next job.",
    )
    max_blocks: Count = Field(default=1, description="Largest number of jobs at once.")
    min_blocks: int = Field(default=0, ge=0, description="Number of jobs that are kept even if there is nothing to do.")
    nodes_per_block: Count = Field(default=1, description="Number of nodes of a job.")
    workers_per_node: Count = Field(default=1, description="Number of labels that a node calculates at once.")
    cores_per_node: Count | None = Field(
        default=None, description="Number of cores of a node that a job asks for; null means what the partition gives."
    )
    exclusive: bool = Field(default=False, description="Whether a job asks SLURM for whole nodes.")
    linger_s: float = Field(
        default=600.0,
        ge=60.0,  # a busy driver is silent for some heartbeats, of 10 s each
        le=1e6,
        description="Time, s, for which a job goes on with its labels after the driver has been killed; they are found "
        "when it starts again.",
    )
    scheduler_options: str = Field(
        default="", description="Further lines for the head of the job's script, such as '#SBATCH --mem=8G'."
    )
    worker_init: str = Field(
        default="",
        description="Shell commands before a worker starts, such as 'module load pyscf; export OMP_NUM_THREADS=4'.",
    )

    @field_validator("config")
    @classmethod
    def _path(cls, value: str | None) -> str | None:
        return None if value is None else _import_path(value)

    @model_validator(mode="after")
    def _one_description(self) -> Self:
        described = self.model_fields_set - {"kind", "config", "start_timeout_s"}
        if self.config is not None and described:
            raise ValueError(f"config, or {', '.join(sorted(described))} without it: the jobs are described once")
        if self.min_blocks > self.max_blocks:
            raise ValueError(f"min_blocks of at most max_blocks, {self.max_blocks}")
        return self

    @property
    def places(self) -> int | None:
        """Number of labels that can be calculated at once; None if `config` decides."""
        return None if self.config is not None else self.max_blocks * self.nodes_per_block * self.workers_per_node


class ImportedSettings(ExecutorBase):
    """Any `concurrent.futures.Executor` by import path, such as one of Dask or executorlib."""

    kind: Literal["imported"] = Field(default="imported", description="Executor: one by import path.")
    executor: str = Field(
        description="Import path of a class or function that makes a concurrent.futures.Executor, such as "
        "executorlib:SlurmClusterExecutor, or my_dask:make of a my_dask.py beside the configuration."
    )
    arguments: dict[str, JsonValue] = Field(default_factory=dict, description="Its keyword arguments.")

    @field_validator("executor")
    @classmethod
    def _path(cls, value: str) -> str:
        return _import_path(value)


def _import_path(value: str) -> str:
    if not IMPORT_PATH.match(value):
        raise ValueError("an import path, 'package.module:Name'")
    return value


if TYPE_CHECKING:
    ExecutorSettings = ExecutorBase
else:
    ExecutorSettings = Annotated[LocalSettings | ParslSettings | ImportedSettings, Field(discriminator="kind")]
    """Settings of any executor; the field `kind` selects it."""
