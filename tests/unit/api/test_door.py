"""The functions for Python, as far as they refuse or open something without a run."""

from pathlib import Path

import pytest

import bayes_mlff
from bayes_mlff.core.errors import ConfigError, DataError
from tests.support import kept_runs


def test_paths_in_mappings_are_taken(tmp_path):
    with pytest.raises(DataError, match=r"missing\.xyz: no such file"):
        bayes_mlff.fine_tune({"data": {"train": tmp_path / "missing.xyz"}, "output": tmp_path / "out"})
    with pytest.raises(ConfigError, match=r"structure.*missing\.xyz"):
        bayes_mlff.run({"structure": {"file": tmp_path / "missing.xyz"}}, tmp_path / "run")


def test_a_run_that_is_continued_has_one_directory(tmp_path):
    kept = kept_runs.write(tmp_path / "run")
    with pytest.raises(ConfigError, match="directory of a run to continue") as caught:
        bayes_mlff.run(kept, tmp_path / "elsewhere")
    assert caught.value.key == "path" and not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("wrong", ["nothere", Path("nothere"), "nequip"])
def test_what_cannot_be_opened_is_answered_with_all_that_can(wrong):
    with pytest.raises(ConfigError, match=r"directory of a run or a fine-tuning.*nequip-md17-small"):
        bayes_mlff.load(wrong)


def test_models_open_by_name():
    assert isinstance(bayes_mlff.load("nequip-md17-small"), bayes_mlff.Potential)


def test_former_keys_of_a_file_are_refused_with_the_file(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("data: {train: a.xyz}\nschedule: {steps: 20}\n")
    with pytest.raises(ConfigError, match=r"sampler\.steps, to which this key was renamed; change it in .*old\.yaml"):
        bayes_mlff.fine_tune(path)
