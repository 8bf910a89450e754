"""Options that would have no effect are refused."""

import pytest
from typer.testing import CliRunner

from bayes_mlff.cli.app import app
from bayes_mlff.core.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["--output", "x"], "--output"),
        (["--profile", "paper"], "--profile"),
        (["--set", "seed=3"], "--set"),
        (["--set", "seed=3", "models"], "--set"),
        (["--system", "ethanol", "status", "runs/x"], "--system"),
        (["--wall-time", "2h", "run", "config.yaml"], "--wall-time"),
        (["check"], "check"),
        (["finetune", "--train", "a.xyz", "--schedule", "long"], "--schedule"),
        (["check", "config.yaml", "--system", "ethanol"], "check"),
    ],
)
def test_an_option_without_effect_is_refused(arguments, key):
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, ConfigError) and error.key == key


def test_a_profile_goes_with_a_system_alone(tmp_path):
    path = tmp_path / "config.yaml"
    assert CliRunner().invoke(app, ["init", str(path)]).exception is None
    error = CliRunner().invoke(app, ["check", str(path), "--profile", "paper"]).exception
    assert isinstance(error, ConfigError) and error.key == "--profile"
