"""Text from outside stays text: in the report, on the terminal, and as names and paths."""

import ase
import ase.io
import numpy as np
import pytest
import typer

from bayes_mlff.core import settings
from bayes_mlff.core.command_line import run_app
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import from_ase
from bayes_mlff.engines.ase_engine import AseSettings
from bayes_mlff.models import registry
from bayes_mlff.otf import config as run_config
from bayes_mlff.otf import systems
from bayes_mlff.report import page as report
from bayes_mlff.report import run_data

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&[/red]"


@pytest.fixture
def hostile_run(tmp_path):
    atoms = ase.Atoms("OH2", [[0.0, 0.0, 0.1], [0.0, 0.76, -0.5], [0.0, -0.76, -0.5]])
    folder = tmp_path / "run"
    folder.mkdir()
    engine = AseSettings(calculator="a:B", arguments={HOSTILE: HOSTILE})
    config = run_config.parse({"structure": f"{HOSTILE}.xyz", "engine": engine.model_dump(mode="json")})
    (folder / "config.yaml").write_text(settings.dump(config), encoding="utf-8")
    for step in range(3):
        record = LabelRecord(
            from_ase(atoms), Label(-1.0, np.zeros((3, 3))), step, 1.0 * step, HOSTILE, 0.0, -1.0, HOSTILE, 1.0
        )
        dataset.append(
            folder / "dataset.extxyz", record._replace(predicted_energy_mean=-1.1, predicted_energy_sigma=0.1)
        )
    (folder / "trajectory.extxyz").write_text(f"{HOSTILE}\n")
    return folder


def test_the_report_shows_everything_as_text(hostile_run):
    path = report.write_report(hostile_run, threshold_ev=0.02, title=HOSTILE)
    page = path.read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page and "onerror" in page
    assert "<script" not in page and "<img src=x" not in page
    assert run_data.read(hostile_run).records[0].reason == HOSTILE
    assert path.parent == hostile_run


def test_messages_do_not_steer_the_terminal(capsys):
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise DataError("\x1b[2Jpath [bold]x[/nope] \ud800 \u202e é\nsecond line")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["program"])
        with pytest.raises(SystemExit) as stopped:
            run_app(app)
    shown = capsys.readouterr().err
    assert stopped.value.code == 2 and "\x1b[2J" not in shown and "\u202e" not in shown
    assert r"DataError: \x1b[2Jpath [bold]x[/nope] \ud800 \u202e é" in shown


@pytest.mark.parametrize("name", ["../../etc/passwd", "ethanol/../../x", "/etc/passwd", "..", "ethanol\0"])
def test_names_of_what_is_built_in_lead_nowhere_else(name, tmp_path):
    for profile in ("demo", name):
        with pytest.raises(ConfigError, match="--system"):
            systems.settings(name, profile)
    with pytest.raises(ConfigError, match="--profile"):
        systems.settings("ethanol", name)
    with pytest.raises(ConfigError, match="model"):
        registry.load(f"{name}.nothing")


@pytest.mark.parametrize("path", ["../cp2k.out", "a/../../b", ".."])
def test_output_of_engines_is_looked_for_below_their_folder(path):
    raw = {"structure": "a", "engine": {"name": "worker", "calculator": "a:B", "unconverged_pattern": "x"}}
    for good in ("cp2k.out", "a/b.out", "/scratch/../cp2k.out"):
        run_config.parse(raw | {"engine": raw["engine"] | {"output_file": good}})
    with pytest.raises(ConfigError, match="output_file must be an absolute path"):
        run_config.parse(raw | {"engine": raw["engine"] | {"output_file": path}})
