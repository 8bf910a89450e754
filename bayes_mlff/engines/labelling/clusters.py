"""Makes Parsl's configuration from settings; Parsl is imported only where it is used."""

import importlib
import shlex
import sys
import sysconfig
from pathlib import Path
from typing import Any, Final

from bayes_mlff.core.errors import EngineSetupError
from bayes_mlff.engines.labelling.parsl_executor import watching
from bayes_mlff.engines.labelling.settings import ParslSettings

HEARTBEAT_S: Final = 10
LOST_AFTER_S: Final = 60
"""Time without a heartbeat after which a job counts as lost."""


def parsl_config(settings: ParslSettings, work: Path) -> Any:
    """A `parsl.config.Config` for these jobs.

    Args:
      settings: settings without an import path.
      work: folder for Parsl's logs and scripts, which all hosts see.

    Raises:
      EngineSetupError: if Parsl is not installed.
    """
    high_throughput = _parsl("executors.high_throughput.executor")
    executor = watching(high_throughput.HighThroughputExecutor)(
        label="labels",
        provider=_provider(settings),
        interchange_launch_cmd=[sys.executable, "-m", "bayes_mlff.engines.labelling.interchange"],
        # The threshold of the driver says when a job is lost, that of a job how long it goes on without a driver.
        launch_cmd=high_throughput.DEFAULT_LAUNCH_CMD.replace("{heartbeat_threshold}", f"{settings.linger_s:.0f}"),
        max_workers_per_node=settings.workers_per_node,
        cores_per_worker=1e-6,  # the number of workers is that of the line above
        heartbeat_period=HEARTBEAT_S,
        heartbeat_threshold=LOST_AFTER_S,
        # Three jobs in a row that failed, not all since the start.
        block_error_handler=_parsl("jobs.error_handlers").windowed_error_handler,
    )
    return _parsl("config").Config(
        executors=[executor], run_dir=str(work / "parsl"), strategy="htex_auto_scale", retries=0
    )


def _provider(settings: ParslSettings) -> Any:
    scripts = shlex.quote(sysconfig.get_path("scripts"))  # a job may start without the driver's environment
    providers, launchers = _parsl("providers"), _parsl("launchers")
    blocks = {
        "init_blocks": settings.min_blocks,
        "min_blocks": settings.min_blocks,
        "max_blocks": settings.max_blocks,
        "nodes_per_block": settings.nodes_per_block,
        "worker_init": f"export PATH={scripts}:$PATH\n{settings.worker_init}",
    }
    if settings.provider == "local":
        return providers.LocalProvider(**blocks)
    return providers.SlurmProvider(
        partition=settings.partition,
        account=settings.account,
        walltime=settings.walltime,
        cores_per_node=settings.cores_per_node,
        exclusive=settings.exclusive,
        scheduler_options=settings.scheduler_options,
        launcher=launchers.SrunLauncher() if settings.nodes_per_block > 1 else launchers.SingleNodeLauncher(),
        **blocks,
    )


def _parsl(name: str) -> Any:
    """A module of Parsl."""
    try:
        return importlib.import_module(f"parsl.{name}")
    except ImportError as error:
        raise EngineSetupError(f"executor: cannot import Parsl ({error}); pip install 'bayes-mlff[parsl]'") from error
