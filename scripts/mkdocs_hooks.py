"""Hooks of MkDocs: pages that are made from the code, files outside of `docs`, and formulas as MathML."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from website import formulas, links, made

ROOT = Path(__file__).parents[1]
BACKGROUND = ("adr/", "benchmarks/", "CHANGELOG.md", "CONTRIBUTING.md")
"""Pages that the search lists behind the guides."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that nobody writes by hand, and what lies outside of `docs`."""
    for uri, text in made.pages(ROOT).items():
        files.append(File.generated(config, uri, content=text))
    for path in links.outside(ROOT):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in what is made from the code, and let links point to where the files are on the site."""
    if page.file.src_uri.startswith(BACKGROUND):
        page.meta["search"] = {"boost": 0.3}
    return links.moved(made.inserted(markdown), page.file.src_uri)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write formulas as MathML, which browsers show without a script."""
    return formulas.as_mathml(html)
