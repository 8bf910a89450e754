"""Makes Parsl's configuration from settings; imported only where Parsl is used."""

import shlex
import sysconfig
from pathlib import Path
from typing import Any, Final

from bayes_mlff.core.errors import EngineSetupError
from bayes_mlff.engines.labelling.settings import ParslSettings

HEARTBEAT_S: Final = 10
LOST_AFTER_S: Final = 60
"""Time without a heartbeat after which a job counts as lost, and a job without a driver ends."""


def parsl_config(settings: ParslSettings, work: Path) -> Any:
    """A `parsl.config.Config` for these jobs.

    Args:
      settings: settings without an import path.
      work: folder for Parsl's logs and scripts, which all hosts see.

    Raises:
      EngineSetupError: if Parsl is not installed.
    """
    try:
        from parsl.config import Config  # noqa: PLC0415 (optional)
        from parsl.executors import HighThroughputExecutor  # noqa: PLC0415
        from parsl.jobs.error_handlers import windowed_error_handler  # noqa: PLC0415
    except ImportError as error:
        raise EngineSetupError(f"executor: cannot import Parsl ({error}); pip install 'bayes-mlff[parsl]'") from error
    scripts = sysconfig.get_path("scripts")
    executor = HighThroughputExecutor(
        label="labels",
        provider=_provider(settings, f"export PATH={shlex.quote(scripts)}:$PATH\n{settings.worker_init}"),
        interchange_launch_cmd=[str(Path(scripts) / "interchange.py")],
        max_workers_per_node=settings.workers_per_node,
        cores_per_worker=1e-6,  # the number of workers is that of the line above
        heartbeat_period=HEARTBEAT_S,
        heartbeat_threshold=LOST_AFTER_S,
        block_error_handler=windowed_error_handler,  # three jobs in a row that failed, not all since the start
    )
    return Config(executors=[executor], run_dir=str(work / "parsl"), strategy="htex_auto_scale", retries=0)


def _provider(settings: ParslSettings, worker_init: str) -> Any:
    from parsl.providers import LocalProvider, SlurmProvider  # noqa: PLC0415 (optional)

    blocks = {
        "init_blocks": settings.min_blocks,
        "min_blocks": settings.min_blocks,
        "max_blocks": settings.max_blocks,
        "nodes_per_block": settings.nodes_per_block,
        "worker_init": worker_init,
    }
    if settings.provider == "local":
        return LocalProvider(**blocks)
    from parsl.launchers import SingleNodeLauncher, SrunLauncher  # noqa: PLC0415

    return SlurmProvider(
        partition=settings.partition,
        account=settings.account,
        walltime=settings.walltime,
        cores_per_node=settings.cores_per_node,
        exclusive=settings.exclusive,
        scheduler_options=settings.scheduler_options,
        launcher=SrunLauncher() if settings.nodes_per_block > 1 else SingleNodeLauncher(),
        **blocks,
    )
