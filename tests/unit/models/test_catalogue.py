"""Every model that a configuration can name is described, without a download."""

import urllib.request

from bayes_mlff.models import catalogue, registry


def test_all_names_are_described_and_nothing_is_fetched(monkeypatch, tmp_path):
    def fetched(*_, **__):
        raise AssertionError("something was downloaded")

    monkeypatch.setattr(urllib.request, "urlopen", fetched)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known = {model.name: model for model in catalogue.known()}
    assert tuple(known) == registry.NAMES
    assert known["nequip-md17-small"][1:4] == ("NequIP", "H C N O", "152 393 weights")
    assert known["nequip-md17-small"].here == "here"
    assert "not here" in known["mace-mp-0-small"].here and known["mace-mp-0-small"].elements == "89 elements"
    nequix = known["nequix-omat-1"]
    assert nequix.elements == "89 elements" and nequix.licence == "MIT" and "at the first use" in nequix.here
    assert all(all(model) for model in known.values())
