"""The table of models: complete, consistent with the files that are here, and quick to list."""

import urllib.request

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.models import architectures, catalogue, presence, registry
from bayes_mlff.models.catalogue import ENTRIES
from bayes_mlff.models.known.entry import Download, InPackage, Shipped


def test_every_model_that_can_be_loaded_has_a_row_and_the_other_way_round():
    shipped = {name for name, row in ENTRIES.items() if isinstance(row.source, Shipped)}
    assert shipped | set(architectures.published()) == set(catalogue.NAMES)
    assert {row.architecture for row in ENTRIES.values()} == set(architectures.ARCHITECTURES)


def test_rows_are_complete():
    for name, row in ENTRIES.items():
        assert row.name == name and row.elements and row.data and row.level.functional, name
        assert "arXiv:" in row.citation or "doi:" in row.citation, name
        assert row.licence.address.startswith("https://"), name
        if isinstance(row.source, Download):
            assert row.source.url.startswith("https://") and row.source.file.endswith(row.source.suffix), name
        if row.sha256 is not None:
            assert len(row.sha256) == 64 and int(row.sha256, 16), name
    digests = [row.sha256 for row in ENTRIES.values() if row.sha256]
    assert len(digests) == len(set(digests))


def test_licences_that_forbid_commercial_use():
    restricted = {name for name, row in ENTRIES.items() if not row.licence.commercial}
    assert restricted == {
        "mace-omat-0-small",
        "mace-omat-0-medium",
        "mace-matpes-pbe-0",
        "mace-matpes-r2scan-0",
        "mace-mh-1",
        "mace-off23-small",
        "mace-off23-medium",
        "mace-off23-large",
    }


@pytest.mark.parametrize("name", [name for name, row in ENTRIES.items() if isinstance(row.source, Shipped)])
def test_rows_of_shipped_models_agree_with_their_files(name):
    row, potential = ENTRIES[name], registry.load(name)
    assert row.cutoff == potential.config.r_max and row.architecture == potential.config.architecture
    assert row.weights == sum(np.size(leaf) for leaf in flatten_dict(potential.params).values())
    assert len(row.elements.split()) == len(potential.config.elements)


def test_presence_is_found_out_without_a_download(monkeypatch, tmp_path):
    def fetched(*_, **__):
        raise AssertionError("something was downloaded")

    monkeypatch.setattr(urllib.request, "urlopen", fetched)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = {name: presence.of(row) for name, row in ENTRIES.items()}
    assert found["mace-perovskite-small"].text == "here"
    assert found["mace-mpa-0"] == (None, "download")
    kept = tmp_path / "bayes_mlff" / "mace-mpa-0.model"
    kept.parent.mkdir()
    kept.write_bytes(b"")
    assert presence.of(ENTRIES["mace-mpa-0"]) == (kept, "here")
    # The name of one model is the beginning of another's.
    other = catalogue.cached("nequix-mp-1-pft", "0" * 64)
    other.write_bytes(b"")
    assert presence.of(ENTRIES["nequix-mp-1-pft"]) == (other, "here")
    row = ENTRIES["nequix-mp-1"]
    assert isinstance(row.source, Download)
    assert presence.of(row._replace(source=row.source._replace(sha256=None))).path is None


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    row = ENTRIES["sevennet-0"]
    assert isinstance(row.source, InPackage)
    gone = row._replace(source=row.source._replace(package="no_such_package"))
    assert presence.of(gone) == (None, "pip: [sevennet]")


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("mace-mpa", "mace-mpa-0"),
        ("MACE_MP_0_medium", "mace-mp-0-medium"),
        ("off23", "mace-off23-large"),
        ("nequix", "nequix-oam-1"),
        ("sevennet0", "sevennet-0"),
    ],
)
def test_unknown_names_get_similar_ones(asked, near):
    with pytest.raises(ConfigError, match=rf"run\.model: got '{asked}'; allowed: .*{near}.*\(similar\)"):
        catalogue.entry(asked, "run.model")
    with pytest.raises(ConfigError, match=rf"{near}.*\(similar\)"):
        registry.load(asked)


def test_names_like_none_get_no_suggestion():
    assert catalogue.suggestion("water") == "" and catalogue.suggestion("x") == ""


def test_files_are_recognised_by_their_content(tmp_path):
    assert catalogue.by_digest(str(ENTRIES["mace-mpa-0"].sha256)) == ENTRIES["mace-mpa-0"]
    (tmp_path / "mace-mpa-0.model").write_bytes(b"another")
    assert catalogue.by_content(tmp_path / "mace-mpa-0.model") is None
