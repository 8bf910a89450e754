"""Calculators with planted faults, for engines in a process of their own."""

import pytest

from bayes_mlff.engines.worker.engine import WorkerSettings
from tests.support.faulty_programs import PLANTED


@pytest.fixture
def planted(tmp_path):
    """Make settings of a child with one fault; it works in the folder `run/engine`."""
    (tmp_path / "run").mkdir()
    (tmp_path / "planted_engine.py").write_text(PLANTED)

    def settings(fault: str = "none", **changes) -> WorkerSettings:
        return WorkerSettings(
            calculator="planted_engine:Faulty",
            arguments={"fault": fault},
            environment={"PYTHONPATH": str(tmp_path)},
            **({"timeout_s": 20.0} | changes),
        )

    return settings
