"""What the reference pages are made from, and that they miss nothing."""

import re
from pathlib import Path

import pytest
from pydantic import Field
from website import command_line, configuration, links, made
from website.examples import OF_CAMPAIGN

import bayes_mlff
from bayes_mlff import finetune
from bayes_mlff.campaign.config import CampaignConfig
from bayes_mlff.core.settings import Section
from bayes_mlff.finetune.config import FinetuneConfig
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.production.config import ProductionConfig

ROOT = Path(__file__).parents[4]
PAGES = ROOT / "docs" / "reference"


class Examples(dict):
    """Remembers which examples were looked at."""

    def __init__(self, *args):
        super().__init__(*args)
        self.used = set()

    def get(self, key, default=None):
        if key in self:
            self.used.add(key)
        return super().get(key, default)


def test_every_key_is_listed_once_with_an_example_that_its_model_accepts():
    examples, of_campaign = Examples(configuration.EXAMPLES), Examples(OF_CAMPAIGN)
    for model in (RunConfig, FinetuneConfig, ProductionConfig, CampaignConfig):
        parts = configuration.parts(model, of_campaign if model is CampaignConfig else examples)
        names = [key.name for part in parts for key in part.keys]
        assert len(names) == len(set(names))
        assert {name for name in names if "." not in name} == set(model.model_fields)
        assert all(key.example and key.kind and key.meaning for part in parts for key in part.keys)
    assert not set(examples) - examples.used - of_campaign.used, "examples of keys that do not exist"


def test_types_ranges_units_and_defaults_are_those_of_the_model():
    keys = {key.name: key for part in configuration.parts(RunConfig) for key in part.keys}
    assert keys["dynamics.timestep_fs"].kind == "number, above 0, at most 10, in fs"
    assert keys["dynamics.timestep_fs"].default == "`0.5`"
    assert keys["sampler.steps"].kind == "whole number, at least 10, a multiple of 10, at least 1"
    assert keys["structure"].default == "none: it must be set"
    assert keys["dynamics.ensemble"].kind == "`nve` or `nvt` or `npt`"
    assert keys["engine[gpaw].cutoff_ev"].kind == "number, at least 100, in eV"


@pytest.mark.parametrize(
    ("field", "complaint"),
    [
        (Field(default=1), "no description"),
        (Field(default=None, description="Something."), "no example"),
    ],
)
def test_a_key_that_nobody_described_ends_the_build(field, complaint):
    made_up = type("MadeUp", (Section,), {"__annotations__": {"something_new": int | None}, "something_new": field})
    made_up.__doc__ = "A section."
    with pytest.raises(ValueError, match=f"something_new: this key has {complaint}"):
        configuration.text(made_up)


def test_an_example_that_is_refused_ends_the_build():
    with pytest.raises(ValueError, match=r"sampler\.step_size: the example -1 is refused"):
        configuration.text(RunConfig, configuration.EXAMPLES | {"step_size": -1})


def test_every_command_and_option_is_listed():
    text = command_line.text()
    for command in ("run", "resume", "check", "finetune", "produce", "analyse", "export", "models", "status"):
        assert f"## `bayes-mlff {command}`" in text
    assert "`--wall-time`" in text
    assert "`--compare`" in text
    assert "--schedule" not in text  # a former spelling, which is hidden


def test_every_public_name_has_an_entry():
    listed = re.findall(r"^::: bayes_mlff\.(\w+)$", (PAGES / "python.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(bayes_mlff.__all__)


def test_every_name_of_fine_tuning_and_every_module_of_analysis_and_tests_has_an_entry():
    listed = set()
    for page in ("python.md", "python_parts.md"):
        listed |= set(re.findall(r"^::: bayes_mlff\.(\S+)$", (PAGES / page).read_text(encoding="utf-8"), re.MULTILINE))
    shown = set(bayes_mlff.__all__)
    assert {f"finetune.{name}" for name in finetune.__all__ if name not in shown} <= listed
    package = Path(bayes_mlff.__file__).parent
    elsewhere = {"analysis.analyse", "analysis.finding"}  # `bayes_mlff.analyse` has an entry, and its result in it
    for folder in ("analysis", "testing"):
        modules = {f"{folder}.{path.stem}" for path in (package / folder).glob("[!_]*.py")}
        assert modules - elsewhere <= listed


def test_every_marker_is_known_and_every_part_is_shown():
    found = []
    for page in (ROOT / "docs").rglob("*.md"):
        found += re.findall(r"^<!-- made: (\w+) -->$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(found) == sorted(made.PARTS)
    with pytest.raises(KeyError, match="unheard_of"):
        made.inserted("<!-- made: unheard_of -->\n")


def test_links_of_pages_outside_of_docs_exist():
    for page in ("README.md", *links.PAGES):
        path = ROOT / page
        assert not links.broken(path.read_text(encoding="utf-8"), path, ROOT), page


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("export.md", "../benchmarks/results/exports/summary.json", "benchmarks/results/exports/summary.json"),
        ("understand/prior.md", "../adr/0003-x.md", "../adr/0003-x.md"),
        ("CONTRIBUTING.md", "docs/adr/0019-rooms.md#layers", "adr/0019-rooms.md#layers"),
        ("benchmarks/README.md", "../docs/finetune.md", "../finetune.md"),
        ("begin/install.md", "../../README.md", "../index.md"),
        ("howto/use.md", "../notebooks/ethanol.ipynb", "../notebooks/ethanol.md"),
        ("adr/0003-x.md", "https://doi.org/1", "https://doi.org/1"),
    ],
)
def test_links_of_the_repository_lead_to_the_same_on_the_site(page, link, there):
    assert links.moved(f"[a]({link})", page) == f"[a]({there})"
