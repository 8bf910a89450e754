"""Notebooks as pages: their text and code, without outputs."""

import json
from pathlib import Path
from typing import Any


def pages(root: Path) -> dict[str, str]:
    """Markdown of every notebook in `docs/notebooks`, and of the page that lists them, by path on the site."""
    found = {path.stem: _markdown(path) for path in sorted((root / "docs" / "notebooks").glob("*.ipynb"))}
    listed = [f"- [{text.splitlines()[0].lstrip('# ')}]({name}.md)" for name, text in found.items()]
    head = "# Notebooks\n\nThey are run by the tests, on public names only. The files are in `docs/notebooks`.\n\n"
    index = {"notebooks/index.md": head + "\n".join(listed) + "\n"}
    return index | {f"notebooks/{name}.md": text for name, text in found.items()}


def _markdown(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(map(_cell, cells)) + "\n"


def _cell(cell: dict[str, Any]) -> str:
    text = "".join(cell["source"])
    return f"```python\n{text}\n```" if cell["cell_type"] == "code" else text
