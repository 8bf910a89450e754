"""What is made when the site is built: pages, and parts of pages at markers such as `<!-- made: commands -->`."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bayes_mlff.campaign.config import CampaignConfig
from bayes_mlff.finetune.config import FinetuneConfig
from bayes_mlff.otf.changes import FREE
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.production.config import ProductionConfig
from website import command_line, configuration, models, notebooks
from website.examples import OF_CAMPAIGN

_MARKER: Final = re.compile(r"^<!-- made: (?P<name>\w+) -->$", re.MULTILINE)

PARTS: Final[dict[str, Callable[[], str]]] = {
    "commands": command_line.text,
    "free_keys": lambda: ", ".join(f"`{key}`" for key in FREE) + ".",
    "models": models.table,
    "presets": models.preset_table,
    "run_keys": functools.partial(configuration.text, RunConfig),
    "finetune_keys": functools.partial(configuration.text, FinetuneConfig),
    "campaign_keys": functools.partial(configuration.text, CampaignConfig, OF_CAMPAIGN),
    "production_keys": functools.partial(configuration.text, ProductionConfig),
}
"""Text for each marker."""


def inserted(markdown: str) -> str:
    """The text of a page with what belongs at its markers.

    Raises:
      KeyError: for a marker that is not known.
    """
    return _MARKER.sub(lambda found: PARTS[found["name"]](), markdown)


def pages(root: Path) -> dict[str, str]:
    """Markdown of every page that is made, by its path on the site.

    Args:
      root: of the repository.
    """
    licence = "# Licence\n\n" + (root / "LICENSE").read_text(encoding="utf-8")
    return {"LICENSE.md": licence, "adr/README.md": decisions(root / "docs" / "adr"), **notebooks.pages(root)}


def decisions(folder: Path) -> str:
    """List of the decision records by their titles."""
    lines = ["# Decisions", "", "Why things are as they are: what a reader would otherwise have to guess.", ""]
    for path in sorted(folder.glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        number, _, said = title.partition(" ")
        lines.append(f"- [{number.rstrip('.').zfill(4)}]({path.name}) {said}")
    return "\n".join(lines) + "\n"
