"""Downloads over a server on the loopback device: fetched once, recorded, and checked from then on."""

import hashlib
import http.server
import threading

import jax
import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.models import registry
from bayes_mlff.models.importers import downloads
from bayes_mlff.models.importers.downloads import DOWNLOADS, Download, fetch, names, place
from bayes_mlff.models.importers.mace_files import read_model
from tests.support import nequix_file
from tests.support.places import ROOT


@pytest.fixture
def mace_model_file():
    return ROOT / "tests" / "parity" / "mace_scalars.model"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server of `content`; the list of requests that it has answered, and the catalogue that names it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked, answer = [], {"content": b"weights" * 1000, "announced": None}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if not self.path.endswith(".model"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(answer["announced"] or len(answer["content"])))
            self.end_headers()
            self.wfile.write(answer["content"])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    catalogue = {
        "some": Download(f"http://127.0.0.1:{server.server_port}/a.model", "MIT"),
        "none": Download(f"http://127.0.0.1:{server.server_port}/b", "MIT"),
    }
    yield asked, answer, catalogue
    server.shutdown()
    server.server_close()


def test_fetched_once_and_checked_ever_after(served):
    asked, answer, catalogue = served
    said = []
    path, digest = fetch("some", "model", say=said.append, catalogue=catalogue)
    assert path.read_bytes() == answer["content"] and "licence MIT" in said[0] and digest in said[1]
    assert fetch("some", "model", say=said.append, catalogue=catalogue) == (path, digest)
    assert asked == ["/a.model"] and len(said) == 2
    path.write_bytes(b"others")
    with pytest.raises(WeightsError, match=f"SHA-256 is .*; allowed: {digest}"):
        fetch("some", "model", say=said.append, catalogue=catalogue)


def test_what_cannot_be_had_leaves_nothing_behind(served, tmp_path):
    _, answer, catalogue = served
    with pytest.raises(ConfigError, match=r"run\.model: got 'none'.*cannot be reached.*put it at .*none\.model"):
        fetch("none", "run.model", say=print, catalogue=catalogue)
    answer["announced"] = 10**6
    with pytest.raises(ConfigError, match=r"cannot be reached|broke off after 7000 of 1000000 bytes"):
        fetch("some", "model", say=print, catalogue=catalogue)
    gone = {"some": Download("http://127.0.0.1:9/a.model", "MIT")}  # the discard port, where nobody listens
    with pytest.raises(ConfigError, match=r"cannot be reached .*refused"):
        fetch("some", "model", say=print, catalogue=gone)
    assert not list((tmp_path / "cache").rglob("*.model*"))


def test_answers_without_end_are_cut_off(served, monkeypatch):
    monkeypatch.setattr(downloads, "LARGEST", 100)
    monkeypatch.setattr(downloads, "CHUNK", 50)
    with pytest.raises(ConfigError, match="gives more"):
        fetch("some", "model", say=print, catalogue=served[2])


def test_downloaded_models_are_converted_and_cached(served, monkeypatch, mace_model_file):
    asked, answer, catalogue = served
    answer["content"] = mace_model_file.read_bytes()
    monkeypatch.setitem(DOWNLOADS, "mace-mp-0-small", catalogue["some"])
    expected = read_model(mace_model_file)
    for _ in range(2):
        potential = registry.load("mace-mp-0-small", dtype=np.float64)
        assert potential.config == expected.config
        jax.tree.map(np.testing.assert_array_equal, potential.params, expected.params)
    assert asked == ["/a.model"]
    direct = registry.load(str(mace_model_file), dtype=np.float64)
    jax.tree.map(np.testing.assert_array_equal, direct.params, expected.params)


def test_files_that_are_known_must_be_those(served, monkeypatch, tmp_path):
    data = nequix_file.content(nequix_file.HEADER, nequix_file.random_leaves(nequix_file.HEADER))
    known = DOWNLOADS["nequix-mp-1"]._replace(sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(DOWNLOADS, "nequix-mp-1", known)
    path = place("nequix-mp-1", known)
    assert path == tmp_path / "cache" / "bayes_mlff" / "nequix-mp-1.nqx"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)  # put there by hand
    assert registry.load("nequix-mp-1").config.elements == (1, 8)
    assert not path.with_name("nequix-mp-1.nqx.sha256").exists()
    path.write_bytes(data + b"\n")
    with pytest.raises(WeightsError, match=f"SHA-256 is .*; allowed: {known.sha256}; remove the file"):
        registry.load("nequix-mp-1")


def test_addresses_are_those_of_the_published_releases():
    tuned = {"nequix-mp-1-pft", "nequix-oam-1-pft"}
    assert set(names(".model")) == {"mace-mp-0-small", "mace-mp-0-medium"}
    assert set(names(".nqx")) == {"nequix-mp-1", "nequix-omat-1", "nequix-oam-1"} | tuned
    assert len(names(".model") + names(".nqx")) == len(DOWNLOADS)
    owners = {".model": "ACEsuit/mace-mp/releases/", ".nqx": "atomicarchitects/nequix/raw/"}
    for name, origin in DOWNLOADS.items():
        assert origin.url.startswith(f"https://github.com/{owners[origin.suffix]}") and origin.licence == "MIT"
        assert (origin.sha256 is None) == (name in tuned | set(names(".model")))
