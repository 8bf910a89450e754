"""Links between pages, and to files of the repository that lie outside of `docs`.

Links in the repository are relative to the file that has them, so that they work where the repository is browsed. On
the site, what is in `docs` lies at the top, and the other files that pages name lie beside it under their own names.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Final

_LINK: Final = re.compile(r"(?<=\]\()(?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?(?=\))")

PAGES: Final = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")
"""Pages that are at home elsewhere in the repository."""

RESULTS: Final = "benchmarks/results"
KINDS: Final = (".png", ".json", ".md", ".yaml")
"""What is taken of the results: figures, numbers and settings, no frames."""

RENAMED: Final = {"README.md": "index.md", "LICENSE": "LICENSE.md", "docs/adr": "docs/adr/README.md"}
"""Files and folders that a page of the site stands for."""


def outside(root: Path) -> list[str]:
    """Paths of the files outside of `docs` that belong to the site, relative to the root of the repository."""
    results = sorted(p for p in (root / RESULTS).rglob("*") if p.suffix in KINDS)
    return [*PAGES, *(p.relative_to(root).as_posix() for p in results)]


def moved(markdown: str, page: str) -> str:
    """The text of a page with its links relative to where it and their targets are on the site.

    Args:
      markdown: text of the page.
      page: its path on the site.
    """
    home = page if page in PAGES else f"docs/{page}"

    def target(found: re.Match[str]) -> str:
        named = posixpath.normpath(posixpath.join(posixpath.dirname(home), found["target"]))
        there = on_site(named.rstrip("/"))
        return posixpath.join(posixpath.relpath(there, posixpath.dirname(page) or ".")) + (found["anchor"] or "")

    return _LINK.sub(target, markdown)


def on_site(path: str) -> str:
    """Path on the site of a path in the repository."""
    path = RENAMED.get(path, path)
    return path.removeprefix("docs/").removesuffix(".ipynb") + (".md" if path.endswith(".ipynb") else "")


def broken(text: str, path: Path, root: Path) -> list[str]:
    """Targets of the links of a text that do not exist in the repository.

    Args:
      text: Markdown.
      path: file that has it.
      root: of the repository.
    """
    targets = (found["target"] for found in _LINK.finditer(text))
    return [
        t for t in targets if not os.path.exists(path.parent / t) or root not in (path.parent / t).resolve().parents
    ]
