"""The command `bayes-mlff models`: what is known about each model, as a table or in full."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich import box
from rich.measure import Measurement
from rich.table import Table

from bayes_mlff.core.command_line import make_console

if TYPE_CHECKING:
    from bayes_mlff.data.level import Level
    from bayes_mlff.models.known.entry import Entry

NAME: Final = 12
"""Width of the names in the description of one model."""


def models(
    name: Annotated[str | None, typer.Argument(help="Name of a model to tell more about.")] = None,
    accept_licence: Annotated[
        str | None,
        typer.Option(help="Accept a licence that forbids commercial use, e.g. ASL; needed once before a download."),
    ] = None,
) -> None:
    """List the models that are known by name, or tell more about one of them."""
    from bayes_mlff.models import catalogue, licences

    console = make_console()
    if accept_licence is not None:
        accepted = licences.accept(accept_licence, "--accept-licence")
        console.print(f"accepted: {accepted.title} ({accepted.name}), {accepted.address}; noted in {licences.record()}")
        return
    if name is not None:
        for label, text in rows(name):
            console.print(f"  {label:{NAME}} {text}" if label else text)
        return
    shown, left_out = fitting(console.width if console.is_terminal else None)
    console.width = max(console.width, measured(shown))  # of a pipe
    console.print(shown)
    if left_out:
        console.print(f"not shown, since the terminal is narrow: {', '.join(left_out)}")
    asking = ", ".join(licences.restricted())
    console.print(
        f"cost: time of a step, in units of that of {catalogue.CHEAPEST}; –: not known, or not measured\n"
        f"*: its licence forbids commercial use and must be accepted once: {licences.OPTION} {asking}\n"
        "more about one of them: bayes-mlff models NAME"
    )


COLUMNS: Final[tuple[str, ...]] = (
    "model",
    "elements",
    "level of theory",
    "licence",
    "cutoff",
    "weights",
    "cost",
    "where",
)
LEAST_NEEDED: Final[tuple[str, ...]] = ("elements", "weights", "where", "cutoff")
"""Columns that a narrow terminal does without, the first to be left out first."""


def fitting(width: int | None) -> tuple[Table, tuple[str, ...]]:
    """The table with as many columns as fit into a width, and those that are left out; all without a width."""
    left_out = [LEAST_NEEDED[:count] for count in range(len(LEAST_NEEDED) + 1)]
    fits = (x for x in left_out if width is None or measured(table(without=x)) <= width)
    chosen = next(fits, left_out[-1])
    return table(without=chosen), chosen


def measured(shown: Table) -> int:
    """Width of a table whose cells are not cut off."""
    return Measurement.get(wide := make_console(), wide.options.update(width=1000), shown).maximum


def table(*, without: tuple[str, ...] = ()) -> Table:
    """All models, one in a line, at most 120 columns wide."""
    from bayes_mlff.models import catalogue

    shown = [title for title in COLUMNS if title not in without]
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for title in shown:
        made.add_column(title, justify="right" if title in ("cutoff", "weights", "cost") else "left", no_wrap=True)
    for known in catalogue.ENTRIES.values():
        cells: dict[str, str] = dict(zip(COLUMNS, _cells(known), strict=True))
        made.add_row(*(cells[title] for title in shown))
    return made


def _cells(known: "Entry") -> tuple[str, ...]:
    from bayes_mlff.models import presence

    heads = f", {len(known.heads)} heads" if known.heads else ""
    return (
        known.name,
        known.elements,
        f"{known.level.text}{heads}",
        known.licence.name if known.licence.commercial else f"{known.licence.name}*",
        "–" if known.cutoff is None else f"{known.cutoff:.1f} Å",
        "–" if known.weights is None else f"{known.weights / 1e6:.2f} M",
        "–" if known.cost is None else f"{known.cost:.3g}",
        presence.of(known).text,
    )


def rows(name: str) -> Iterable[tuple[str, str]]:
    """What is known about one model, as labels and texts; the first has no label.

    Raises:
      ConfigError: if there is no such model, with the names of similar ones.
    """
    from bayes_mlff.models import catalogue, licences, presence
    from bayes_mlff.models.importers import downloads
    from bayes_mlff.models.known import presets
    from bayes_mlff.models.known.entry import Download, InPackage

    known = catalogue.entry(name, "models")
    source, licence = known.source, known.licence
    yield "", known.name
    yield "architecture", known.architecture
    yield "elements", _all(known.elements)
    yield "level", _level(known.level)
    for head, level in known.heads.items():
        yield "head", f"{head}: {level.text}"
    yield "data", known.data
    yield "energies", f"zero: {known.zero}"
    yield "licence", f"{licence.title} ({licence.name}), {licence.address}"
    if not licence.commercial:
        asked = "accepted" if licences.accepted(licence) else f"to accept it: {licences.OPTION} {licence.name}"
        yield "", f"{'':{NAME + 3}}forbids commercial use; {asked}"
    yield "cutoff", "not known" if known.cutoff is None else f"{known.cutoff:g} Å"
    yield "weights", "not known" if known.weights is None else f"{known.weights:,}".replace(",", " ")
    preset, whose = presets.whose(known)
    yield "preset", f"of {whose}: {preset.text}"
    yield "", f"{'':{NAME + 3}}found by: {preset.found}"
    yield "cost", "not measured" if known.cost is None else f"{known.cost:.3g} times {catalogue.CHEAPEST}"
    yield "citation", known.citation
    if isinstance(source, Download):
        yield "source", source.url
    elif isinstance(source, InPackage):
        yield "source", f"{source.path} in the package {source.package}; pip install 'bayes-mlff[{source.extra}]'"
    else:
        yield "source", "comes with this package"
    found = presence.of(known).path
    if isinstance(source, Download):
        yield "file", str(found or f"not here; downloaded to {downloads.place(known.name, source)} at the first use")
        unknown = "not known; that of the first download is recorded"
        yield "SHA-256", source.sha256 or unknown
    else:
        yield "file", str(found or "not here")
        if known.sha256 is not None:
            yield "SHA-256", known.sha256


def _all(elements: str) -> str:
    return f"{elements}: H to Bi, and Ac to Pu" if elements == "89 elements" else elements


def _level(level: "Level") -> str:
    if not level.hubbard:
        return level.text
    beside = f" beside {' or '.join(level.hubbard_with)}" if level.hubbard_with else ""
    return f"{level.text}; +U on {', '.join(level.hubbard)}{beside}"
