"""All pages of the site that are made when it is built."""

from pathlib import Path

from website import notebooks


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
