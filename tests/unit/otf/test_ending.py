"""A run that ends says why, whatever else goes wrong then."""

import types

import pytest

from bayes_mlff.core.errors import RunDirectoryError, RunInterruptedError
from bayes_mlff.ensemble import files
from bayes_mlff.otf import artefact
from bayes_mlff.otf.loop import Session
from bayes_mlff.runs.directory import RunDirectory


def test_a_copy_that_cannot_be_written_does_not_hide_why_a_run_ends(tmp_path):
    def asked_to_end(*_):
        raise RunInterruptedError("SIGTERM", "at step 0 of 5", "go on")

    session = object.__new__(Session)
    session.problem = types.SimpleNamespace(config=types.SimpleNamespace(n_steps=5))
    session.interruption = types.SimpleNamespace(check=asked_to_end)
    session.run = RunDirectory(tmp_path)
    session.run.checkpoints.mkdir()
    (session.run.checkpoints / "000000000.ckpt").touch()
    (session.run.checkpoints / "000000000.ensemble.safetensors").touch()
    (tmp_path / f"{files.NAME}.tmp").mkdir()  # as good as a full disk
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        artefact.publish(session.run)
    with pytest.raises(RunInterruptedError, match="SIGTERM"):
        session.finish(types.SimpleNamespace(host=types.SimpleNamespace(step=0)))
