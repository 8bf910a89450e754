"""Whichever door is taken, a directory gives the newest ensemble that it has."""

import numpy as np

from bayes_mlff.api import door
from bayes_mlff.ensemble import files, saved
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.models import registry
from bayes_mlff.testing.tiny import tiny_nequip

SMALL = tiny_nequip((1, 8), r_max=2.5)


def ensemble(step: int) -> Ensemble:
    flat = registry.initialize(SMALL, 0).flat()[0]
    parts = (SMALL, np.stack([flat, 1.01 * flat]), np.zeros((2, 2)), SigmaFactors(), 0.01, 1.0, "seed: 1\n")
    return Ensemble(*parts, provenance={"step": str(step)})


def test_a_run_that_ended_went_on_and_was_killed_is_known_by_its_newest_checkpoint(tmp_path):
    folder = tmp_path / files.CHECKPOINTS
    folder.mkdir()
    saved.save(ensemble(8), tmp_path / files.NAME)
    saved.save(ensemble(16), folder / "000000016.ensemble.safetensors")
    (folder / "000000016.ckpt").touch()
    result = door.RunResult(tmp_path, finished=False, labels=1, trained=False, verdict="")
    for made in (EnsembleCalculator(tmp_path), door.load(tmp_path), result.calculator()):
        assert isinstance(made, EnsembleCalculator) and made.ensemble.provenance == {"step": "16"}
    old = door.load(tmp_path / files.NAME)
    assert isinstance(old, EnsembleCalculator) and old.ensemble.provenance == {"step": "8"}
