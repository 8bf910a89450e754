"""Downloads over a server on the loopback device: fetched once, continued where they broke off, and checked."""

import hashlib
import io
import json
import threading

import jax
import numpy as np
import pytest
from rich.console import Console

from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.models import registry
from bayes_mlff.models.catalogue import ENTRIES
from bayes_mlff.models.importers import downloads, mirrors, resumable, telling
from bayes_mlff.models.importers.downloads import fetch, place
from bayes_mlff.models.importers.mace_files import read_model
from bayes_mlff.models.known.entry import Download
from tests.support import nequix_file
from tests.support.file_server import serving
from tests.support.places import ROOT

CONTENT = bytes(range(251)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ROW = ENTRIES["mace-mp-0-small"]


class Told:
    def __init__(self):
        self.said, self.worked = [], []

    def say(self, text):
        self.said.append(text)

    def working(self, what):
        self.worked.append(what)


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(resumable, "PAUSE_S", 0.0)
    monkeypatch.setattr(resumable, "CHUNK", 10_000)
    with serving() as started:
        started.files["/a.model"] = CONTENT
        yield started


@pytest.fixture
def unknown(server):
    """A source whose checksum is not known."""
    return Download(f"{server.base}/a.model")


@pytest.fixture
def known(unknown):
    return unknown._replace(sha256=DIGEST)


def in_cache(tmp_path):
    return {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_fetched_once_and_checked_ever_after(server, unknown, told):
    path, digest = fetch(ROW, unknown, "model", listener=told)
    assert path.read_bytes() == CONTENT and digest == DIGEST
    assert "licence MIT" in told.said[0] and digest in told.said[1]
    assert fetch(ROW, unknown, "model", listener=told) == (path, digest)
    assert server.asked == [("/a.model", None)] and len(told.said) == 2
    path.write_bytes(b"others")
    with pytest.raises(WeightsError, match=f"SHA-256 is .*; allowed: {digest}.*remove the file"):
        fetch(ROW, unknown, "model", listener=told)


def test_what_breaks_off_is_continued_at_once(server, unknown, told, tmp_path):
    server.break_after = [33_333, 20_000]
    path, _ = fetch(ROW, unknown, "model", listener=told)
    assert path.read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=33333-", "bytes=53333-"]
    assert in_cache(tmp_path) == {"mace-mp-0-small.model", "mace-mp-0-small.model.sha256"}


def test_what_breaks_off_is_kept_for_a_later_attempt(server, known, told, monkeypatch, tmp_path):
    monkeypatch.setattr(resumable, "ATTEMPTS", 1)
    server.break_after = [33_333]
    with pytest.raises(ConfigError, match=r"broke off after 33333 of 100400 bytes; the 33333 bytes that came are kept"):
        fetch(ROW, known, "model", listener=told)
    assert not place(ROW.name, known).exists()
    assert fetch(ROW, known, "model", listener=told)[0].read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=33333-"]


def test_connections_that_bring_nothing_are_not_tried_again(server, known, told):
    server.break_after = [5000, 0, 0]
    with pytest.raises(ConfigError, match="broke off after 5000 of 100400 bytes"):
        fetch(ROW, known, "model", listener=told)
    assert len(server.asked) == 2


@pytest.mark.parametrize("heeds", [True, False])
def test_files_that_have_changed_meanwhile_are_begun_afresh(server, unknown, told, monkeypatch, heeds):
    monkeypatch.setattr(resumable, "ATTEMPTS", 1)
    server.break_after = [33_333]
    with pytest.raises(ConfigError, match="are kept"):
        fetch(ROW, unknown, "model", listener=told)
    server.files["/a.model"], server.heeds_if_range = CONTENT[::-1], heeds
    if not heeds:  # the server gives the rest of another file: noticed by its ETag
        with pytest.raises(ConfigError, match="another file than before"):
            fetch(ROW, unknown, "model", listener=told)
    assert fetch(ROW, unknown, "model", listener=told)[0].read_bytes() == CONTENT[::-1]
    assert server.ranges_asked[1] == "bytes=33333-"


def test_servers_that_give_no_parts_are_asked_for_all(server, known, told):
    server.ranges, server.break_after = False, [33_333]
    assert fetch(ROW, known, "model", listener=told)[0].read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=33333-"]


def test_nothing_is_continued_without_a_sign_that_the_file_is_the_same(server, unknown, told):
    server.tags, server.break_after = False, [33_333]
    assert fetch(ROW, unknown, "model", listener=told)[0].read_bytes() == CONTENT
    assert server.ranges_asked == [None, None]


def test_a_whole_unfinished_file_is_taken(server, known, told, tmp_path):
    part = place(ROW.name, known).with_name("mace-mp-0-small.model.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    tag = f'"{DIGEST[:8]}"'
    note = {"url": known.url, "size": len(CONTENT), "etag": tag, "modified": None}
    part.with_name(f"{part.name}.json").write_text(json.dumps(note))
    assert fetch(ROW, known, "model", listener=told)[0].read_bytes() == CONTENT
    assert server.ranges_asked == ["bytes=100400-"]


@pytest.mark.parametrize("note", [b"[1]", b"{", b'{"url": 3, "size": "x", "etag": 7}'])
def test_damaged_notes_mean_a_new_beginning(server, known, told, note):
    part = place(ROW.name, known).with_name("mace-mp-0-small.model.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"something")
    part.with_name(f"{part.name}.json").write_bytes(note)
    assert fetch(ROW, known, "model", listener=told)[0].read_bytes() == CONTENT


def test_other_content_is_refused_and_leaves_nothing_behind(server, known, told, tmp_path):
    server.files["/a.model"] = b"an error page"
    with pytest.raises(ConfigError, match=rf"SHA-256 is .*, not {DIGEST}"):
        fetch(ROW, known, "run.model", listener=told)
    assert in_cache(tmp_path) == set()


def test_what_cannot_be_had_is_said_in_one_message(server, told, tmp_path, monkeypatch):
    gone = Download("http://127.0.0.1:9/a.model")  # the discard port, where nobody listens
    monkeypatch.setenv(mirrors.VARIABLE, f"{tmp_path / 'none'}, {server.base}/mirror")
    with pytest.raises(ConfigError) as caught:
        fetch(ROW, gone, "run.model", listener=told)
    text = str(caught.value)
    assert text.startswith("run.model: got 'mace-mp-0-small'") and "\n" not in text
    assert "mirror/a.model: 404" in text and "127.0.0.1:9/a.model: " in text and "refused" in text
    assert "put it at " in text and "BAYES_MLFF_MODELS" in text
    assert in_cache(tmp_path) == set()


def test_mirrors_come_before_the_original_address(server, known, told, monkeypatch):
    server.files["/second/a.model"] = CONTENT
    monkeypatch.setenv(mirrors.VARIABLE, f"{server.base}/first/,{server.base}/second")
    assert fetch(ROW, known, "model", listener=told)[0].read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/first/a.model", "/second/a.model"]


def test_mirrors_with_other_content_are_passed_over(server, known, told, monkeypatch):
    server.files["/first/a.model"] = CONTENT + b"?"
    monkeypatch.setenv(mirrors.VARIABLE, f"{server.base}/first")
    assert fetch(ROW, known, "model", listener=told)[0].read_bytes() == CONTENT
    assert any("another file" in line for line in told.said)


@pytest.mark.parametrize("name", ["mace-mp-0-small.model", "a.model"])
def test_folders_of_the_user_are_used_in_place(server, known, told, monkeypatch, tmp_path, name):
    path = tmp_path / "models" / name
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    monkeypatch.setenv(mirrors.VARIABLE, f"{tmp_path / 'empty'},{path.parent}")
    assert fetch(ROW, known, "model", listener=told) == (path, DIGEST)
    assert server.asked == [] and not place(ROW.name, known).exists()
    path.write_bytes(b"others")
    with pytest.raises(WeightsError, match=rf"{name}: SHA-256 is .*remove it there \(BAYES_MLFF_MODELS\)"):
        fetch(ROW, known, "model", listener=told)


@pytest.mark.parametrize("announced", [None, 10**12])
def test_answers_without_end_are_cut_off(server, unknown, told, monkeypatch, tmp_path, announced):
    monkeypatch.setattr(resumable, "LARGEST", 50_000)
    server.announced = announced
    with pytest.raises(ConfigError, match=r"gives more than .* the largest size"):
        fetch(ROW, unknown, "model", listener=told)
    assert in_cache(tmp_path) == set()


def test_two_processes_download_once(server, known, told):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(fetch(ROW, known, "model", listener=told))) for _ in range(2)
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(results) == 2 and results[0] == results[1] and len(server.asked) == 1


def test_progress_is_told(server, known, told, monkeypatch):
    monkeypatch.setattr(downloads, "TELL_S", 0.0)
    fetch(ROW, known, "model", listener=told)
    assert len(told.worked) == 11 and " 9 % of 0.1 MB" in told.worked[0]
    assert told.worked[-1].startswith(f"downloading mace-mp-0-small: {'━' * telling.BAR} 100 % of 0.1 MB")
    assert telling.progress("x", 3_000_000, None, 1e6) == "downloading x: 3.0 MB, 1.0 MB/s"


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch):
    out, clock = io.StringIO(), iter([0.0, 0.0, 1.0, 9.0, 11.0, 11.0])
    monkeypatch.setattr(telling.time, "monotonic", lambda: next(clock))
    listener = telling.OnStderr(Console(file=out))
    for what in ("first", "second", "third", "fourth"):
        listener.working(what)
    assert out.getvalue().split() == ["first", "fourth"]


def test_on_a_terminal_the_work_is_one_line():
    out = io.StringIO()
    listener = telling.OnStderr(Console(file=out, force_terminal=True, width=40, color_system=None))
    listener.working("1 %")
    listener.working("2 %" + "x" * 100)
    listener.say("done")
    assert out.getvalue() == "1 %\r\x1b[2K2 %" + "x" * 36 + "\r\x1b[2Kdone\n"


def test_downloaded_models_are_converted_and_cached(server, unknown, monkeypatch):
    file = ROOT / "tests" / "parity" / "mace_scalars.model"
    server.files["/a.model"] = file.read_bytes()
    monkeypatch.setitem(ENTRIES, "mace-mp-0-small", ROW._replace(source=unknown))
    expected = read_model(file)
    for _ in range(2):
        potential = registry.load("mace-mp-0-small", dtype=np.float64)
        assert potential.config == expected.config
        jax.tree.map(np.testing.assert_array_equal, potential.params, expected.params)
    assert server.asked == [("/a.model", None)]
    direct = registry.load(str(file), dtype=np.float64)
    jax.tree.map(np.testing.assert_array_equal, direct.params, expected.params)


def test_files_that_are_known_must_be_those(server, monkeypatch, tmp_path):
    data = nequix_file.content(nequix_file.HEADER, nequix_file.random_leaves(nequix_file.HEADER))
    source = ENTRIES["nequix-mp-1"].source
    assert isinstance(source, Download)
    known = source._replace(sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(ENTRIES, "nequix-mp-1", ENTRIES["nequix-mp-1"]._replace(source=known))
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
    owners = {
        ".model": ("ACEsuit/mace-mp/", "ACEsuit/mace-foundations/", "ACEsuit/mace-off/"),
        ".nqx": ("atomicarchitects/nequix/",),
    }
    hosts = ("https://github.com/", "https://raw.githubusercontent.com/")
    for name, row in ENTRIES.items():
        if isinstance(row.source, Download) and row.source.suffix in owners:
            starts = [host + owner for host in hosts for owner in owners[row.source.suffix]]
            assert row.source.url.startswith(tuple(starts)), name
