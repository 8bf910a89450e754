"""What `bayes-mlff models` prints."""

import re
import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bayes_mlff.cli import models
from bayes_mlff.cli.app import app
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.models import catalogue


def test_the_table_fits_a_terminal_of_120_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    console = Console(width=120, record=True, color_system=None)
    with console.capture() as captured:
        console.print(models.table())
    lines = captured.get().splitlines()
    assert "…" not in captured.get() and max(map(len, lines)) <= 120
    for name in catalogue.NAMES:
        assert sum(name in line.split() for line in lines) == 1, name
    off = next(line for line in lines if "mace-off23-small" in line)
    for part in ("H C N O F P S Cl Br I", "ωB97M-D3(BJ)", "ASL*", "4.5 Å", "0.69 M", "download"):
        assert part in off


@pytest.mark.parametrize("width", [40, 60, 80, 100, 119])
def test_a_narrow_terminal_gets_fewer_columns_and_no_cell_cut_off(width):
    shown, left_out = models.fitting(width)
    assert [column.header for column in shown.columns] == [x for x in models.COLUMNS if x not in left_out]
    assert {"model", "level of theory", "licence", "cost"} <= {str(column.header) for column in shown.columns}
    assert models.measured(shown) <= width or left_out == models.LEAST_NEEDED
    console = Console(width=max(width, models.measured(shown)), color_system=None)
    with console.capture() as captured:
        console.print(shown)
    assert "…" not in captured.get() and all(name in captured.get() for name in catalogue.NAMES)


def test_a_pipe_gets_all_columns():
    result = CliRunner().invoke(app, ["models"])
    assert "…" not in result.output and "where" in result.output and "not shown" not in result.output


@pytest.mark.parametrize("name", catalogue.NAMES)
def test_every_model_can_be_described(name):
    text = dict(models.rows(name))
    assert {"level", "data", "licence", "citation", "source", "file"} <= set(text)
    assert text["licence"].startswith(catalogue.ENTRIES[name].licence.title)


def test_one_model_in_full():
    result = CliRunner().invoke(app, ["models", "mace-mh-1"])
    assert result.exit_code == 0
    for expected in ("arXiv:2510.25380", "forbids commercial use", "omat_pbe: PBE+U", "omol: ωB97M-VV10", "Mn, Mo"):
        assert expected in result.output
    assert re.search(r"SHA-256 +a522eb7f", result.output)


def test_unknown_models_are_refused_with_similar_names():
    result = CliRunner().invoke(app, ["models", "mace-mp"])
    assert isinstance(result.exception, ConfigError) and "mace-mp-0" in str(result.exception)


def test_nothing_slow_is_imported_for_the_list():
    code = (
        "import sys; sys.argv = ['bayes-mlff', 'models']\n"
        "from bayes_mlff.cli import app\n"
        "try: app.main()\n"
        "except SystemExit: pass\n"
        "slow = {'jax', 'ase', 'scipy', 'flax', 'torch'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
