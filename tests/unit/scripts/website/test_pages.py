"""Configurations that pages show are accepted, and pages keep what they promise."""

import re
import textwrap
from pathlib import Path

import pytest
import yaml
from website import command_line, links

from bayes_mlff.campaign import config as campaigning
from bayes_mlff.core import settings
from bayes_mlff.engines.labelling.settings import ExecutorSettings
from bayes_mlff.finetune import config as finetuning
from bayes_mlff.otf import config as running

ROOT = Path(__file__).parents[4]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(
    r"^(?P<mark>(?: *<!-- alternatives -->\n)?)(?P<pad> *)```yaml\n(?P<text>.*?)^(?P=pad)```", re.M | re.S
)


class Labelling(settings.Section):
    """What says where labels are calculated."""

    executor: ExecutorSettings


def configurations():
    """Texts of all configurations in pages: a block, or each line of a block that is marked as alternatives."""
    for page in PAGES:
        for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
            text = textwrap.dedent(found["text"])
            for part in text.splitlines() if found["mark"] else [text]:
                yield pytest.param(part, id=f"{page.stem}: {part.splitlines()[0][:40]}")


@pytest.mark.parametrize("text", list(configurations()))
def test_a_configuration_in_a_page_is_accepted(text):
    """`data` is of a fine-tuning, `walkers` of a campaign, `executor` alone of labels; else `structure` is missing."""
    raw = settings.parse_yaml(text, key="page", source="page")
    if set(raw) == {"executor"}:
        settings.validate(Labelling, raw)
    elif "walkers" in raw:
        campaigning.members(settings.validate(campaigning.CampaignConfig, raw), base=ROOT)
    elif "data" in raw:
        finetuning.parse(raw)
    else:
        running.parse({"structure": "ethanol"} | raw)


def test_there_are_configurations_to_test():
    assert len(list(configurations())) > 20


def test_all_yaml_of_pages_is_looked_at():
    marked = sum(page.read_text(encoding="utf-8").count("```yaml") for page in PAGES)
    assert marked == sum(len(BLOCK.findall(page.read_text(encoding="utf-8"))) for page in PAGES)


def test_pages_name_commands_of_the_program():
    known = {"COMMAND", *re.findall(r"^## `bayes-mlff (\w+)`", command_line.text(), re.MULTILINE)}
    for page in [*PAGES, ROOT / "README.md"]:
        used = re.findall(r"bayes-mlff (\w[\w-]*)", page.read_text(encoding="utf-8"))
        assert not set(used) - known, page


def test_options_in_pages_are_those_of_the_program():
    listed = {"--help", *re.findall(r"--[a-z][\w-]*", command_line.text())}
    for page in [*PAGES, ROOT / "README.md"]:
        for line in re.findall(r"bayes-mlff [^`\n]*", page.read_text(encoding="utf-8")):
            assert not set(re.findall(r"(?<!\S)--[a-z][\w-]*", line)) - listed, (page, line)


def test_links_between_pages_exist():
    """The build checks anchors, too; this says it before."""
    assert PAGES
    for page in PAGES:
        gone = links.broken(page.read_text(encoding="utf-8"), page, ROOT)
        assert not gone, page


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w/]+\.md", yaml.safe_dump(yaml.safe_load(text)["nav"])))
    here = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.parent.name != "adr"}
    assert here <= listed
