"""Sections of walkers become walkers, each with the configuration of a run."""

from pathlib import Path

import pytest

from bayes_mlff.campaign import config
from bayes_mlff.campaign.config import CampaignConfig
from bayes_mlff.core import settings
from bayes_mlff.core.errors import ConfigError

GRID = {"temperature_k": [300, 400.5], "friction_per_fs": [0.01, 0.02]}
RUN = {"threshold": "1 kcal/mol", "dynamics": {"duration_ps": 0.5, "temperature_k": 250.0}}


def parsed(*walkers, **keys):
    return settings.validate(CampaignConfig, {"run": RUN, "walkers": list(walkers)} | keys)


def members(*walkers, base=Path(), **keys):
    return config.members(parsed(*walkers, **keys), base=base)


def test_copies_differ_in_their_seeds_and_a_grid_in_its_values():
    found = members(
        {"structure": "ethanol", "copies": 2},
        {
            "name": "warm",
            "structure": "ethanol",
            "grid": {"temperature_k": [300, 400.5], "friction_per_fs": [0.01, 0.02]},
        },
        {"name": "own", "structure": "ethanol", "seed": 7, "dynamics": {"duration_ps": 2.0}},
        seed=10,
    )
    names = ["ethanol-1", "ethanol-2", "warm-300-0.01", "warm-300-0.02", "warm-400.5-0.01", "warm-400.5-0.02", "own"]
    assert [each.name for each in found] == names
    assert [each.config.seed for each in found] == [11, 12, 13, 14, 15, 16, 7]
    assert [each.config.dynamics.temperature_k for each in found] == [250.0, 250.0, 300.0, 300.0, 400.5, 400.5, 250.0]
    assert [each.config.dynamics.duration_ps for each in found] == [0.5] * 6 + [2.0]
    assert {each.config.threshold for each in found} == {"1 kcal/mol"}


def test_a_pattern_names_walkers_after_their_files_and_the_stored_configuration_needs_it_no_more(tmp_path):
    (tmp_path / "here").mkdir()
    for name in ("b", "a"):
        (tmp_path / "here" / f"{name}.xyz").write_text("1\n\nH 0 0 0\n")
    asked = parsed({"structures": "here/*.xyz", "copies": 2})
    found = config.members(asked, base=tmp_path)
    assert [each.name for each in found] == ["a-1", "a-2", "b-1", "b-2"]
    kept = config.resolved(asked, found, base=tmp_path)
    for name in ("b", "a"):
        (tmp_path / "here" / f"{name}.xyz").unlink()
    again = config.members(settings.validate(CampaignConfig, kept.model_dump(mode="json")), base=tmp_path / "elsewhere")
    assert [each.name for each in again] == [each.name for each in found]
    assert [each.config.seed for each in again] == [each.config.seed for each in found]
    assert again[0].config.structure.file == str(tmp_path / "here" / "a.xyz")
    assert config.resolved(kept, again, base=tmp_path) == kept


@pytest.mark.parametrize(
    ("walkers", "key", "allowed"),
    [
        ([{"structure": "ethanol"}, {"structure": "ethanol"}], "walkers", "no two walkers share"),
        ([{"name": "A", "structure": "ethanol"}, {"name": "a", "structure": "ethanol"}], "walkers", "upper and lower"),
        ([{"structures": "none/*.xyz"}], "walkers.0.structures", "files in"),
        ([{"structures": "/etc/*"}], "walkers.0.structures", "relative"),
        ([{"structures": "*.xyz", "structure": "ethanol"}], "walkers.0.structures", "not both"),
        ([{}], "walkers.0.structure", "run.structure"),
        ([{"structure": "ethanol", "name": "a b"}], "walkers.0.name", "letters"),
        (
            [{"structure": "ethanol", "grid": {"temprature_k": [1]}}],
            "walkers.0 with run: dynamics.temprature_k",
            "temperature_k",
        ),
    ],
)
def test_walkers_that_make_no_sense_are_refused_by_name(tmp_path, walkers, key, allowed):
    with pytest.raises(ConfigError) as refused:
        members(*walkers, base=tmp_path)
    assert refused.value.key == key and allowed in str(refused.value)


@pytest.mark.parametrize(
    ("key", "allowed"), [("max_labels", "labels.most"), ("seed", "of a walker"), ("start", "start of the campaign")]
)
def test_keys_that_a_campaign_has_elsewhere_are_refused_in_run(tmp_path, key, allowed):
    with pytest.raises(ConfigError, match=allowed) as refused:
        members({"structure": "ethanol"}, base=tmp_path, run=RUN | {key: 1})
    assert refused.value.key == f"run.{key}"


def test_what_all_share_is_checked_without_a_structure():
    assert config.of_all(parsed({"structure": "ethanol"})).threshold == "1 kcal/mol"
    with pytest.raises(ConfigError, match="threshold") as refused:
        config.of_all(parsed({"structure": "ethanol"}, run={"threshold": "wide"}))
    assert refused.value.key == "run.threshold"
