"""Licences that forbid commercial use are accepted by name, once, before anything is fetched."""

import pytest
from typer.testing import CliRunner

from bayes_mlff.cli.app import app
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.models import licences, registry
from bayes_mlff.models.catalogue import ENTRIES
from bayes_mlff.models.known.entry import Download
from tests.support.file_server import serving
from tests.support.places import ROOT

NAME = "mace-off23-small"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(licences.VARIABLE, raising=False)
    with serving() as started:
        started.files["/off.model"] = (ROOT / "tests" / "parity" / "mace_scalars.model").read_bytes()
        monkeypatch.setitem(ENTRIES, NAME, ENTRIES[NAME]._replace(source=Download(f"{started.base}/off.model")))
        yield started


def test_refused_before_anything_is_fetched(server, tmp_path):
    with pytest.raises(ConfigError) as caught:
        registry.load(NAME, key="run.model")
    text = str(caught.value)
    assert text.startswith(f"run.model: got '{NAME}'") and "Academic Software License (ASL)" in text
    assert "https://github.com/gabor1/ASL" in text and "bayes-mlff models --accept-licence ASL" in text
    assert "BAYES_MLFF_ACCEPT_LICENCE=ASL" in text
    assert server.asked == [] and not (tmp_path / "cache").exists()


def test_files_put_there_by_hand_need_it_too(server):
    path = registry.catalogue.cache_folder() / f"{NAME}.model"
    path.parent.mkdir(parents=True)
    path.write_bytes(server.files["/off.model"])
    with pytest.raises(ConfigError, match="licence you have accepted"):
        registry.load(NAME)


def test_accepted_once_by_the_variable(server, monkeypatch):
    monkeypatch.setenv(licences.VARIABLE, "other, ASL")
    registry.load(NAME)
    monkeypatch.delenv(licences.VARIABLE)
    assert licences.record().read_text() == "ASL\n"
    (licences.record().parent / f"{NAME}.model").unlink()
    for path in licences.record().parent.glob("*.safetensors"):
        path.unlink()
    registry.load(NAME)
    assert len(server.asked) == 2


def test_accepted_once_by_the_program(server):
    run = CliRunner().invoke(app, ["models", "--accept-licence", "ASL"])
    assert run.exit_code == 0 and "https://github.com/gabor1/ASL" in run.output
    assert "forbids commercial use; accepted" in CliRunner().invoke(app, ["models", NAME]).output
    registry.load(NAME)
    licences.accept("ASL", "key")  # a second time changes nothing
    assert licences.record().read_text() == "ASL\n"


@pytest.mark.parametrize("name", ["asl", "MIT", "yes", ""])
def test_other_names_accept_nothing(server, name, monkeypatch):
    run = CliRunner().invoke(app, ["models", "--accept-licence", name])
    assert isinstance(run.exception, ConfigError) and "['ASL']" in str(run.exception)
    monkeypatch.setenv(licences.VARIABLE, name)
    with pytest.raises(ConfigError, match="licence you have accepted"):
        registry.load(NAME)
    assert server.asked == []


def test_free_licences_ask_for_nothing(server):
    licences.require(ENTRIES["mace-mp-0-small"], "model")
