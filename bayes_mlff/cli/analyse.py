"""The command `bayes-mlff analyse`: what a run, or any trajectory that ASE reads, says."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bayes_mlff.core.command_line import make_console
from bayes_mlff.core.errors import ConfigError

if TYPE_CHECKING:
    from bayes_mlff.analysis.analyse import Analysed

WIDTH = 24
"""Width of the names in front of results."""


def analyse(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Directories of runs or productions, or trajectories that ASE reads."),
    ],
    what: Annotated[
        str | None,
        typer.Option(
            help="Which analyses, e.g. rdf,msd: rdf (radial distribution functions), msd (mean square displacement and "
            "diffusion), vdos (vibrational density of states), bonds (lengths and coordination), dihedral "
            "(conformers), hops, lattice, labels (around events). By default all that apply."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the figures, tables and JSON files.")
    ] = None,
    skip_ps: Annotated[
        float | None,
        typer.Option(
            help="Begin of each trajectory to leave out, ps; by default a tenth for averages (rdf, msd, vdos), nothing "
            "for histories and events."
        ),
    ] = None,
    interval_fs: Annotated[
        float | None, typer.Option(help="Time between frames, fs, for files that do not say it.")
    ] = None,
    pairs: Annotated[
        str | None, typer.Option(help="Pairs of elements for rdf and bonds, centre first, e.g. Mn-O,O-O; default: all.")
    ] = None,
    r_max: Annotated[
        float | None, typer.Option(help="Largest distance for rdf, Å; by default half the least width of the cell.")
    ] = None,
    bin_width: Annotated[float | None, typer.Option(help="Width of a bin for rdf, Å; default 0.05.")] = None,
    cutoff: Annotated[
        float | None, typer.Option(help="Largest length of a bond, Å; by default 1.25 times the sum of covalent radii.")
    ] = None,
    species: Annotated[str | None, typer.Option(help="Elements for msd, e.g. H,O; by default all.")] = None,
    keep_drift: Annotated[
        bool, typer.Option("--keep-drift", help="Leave the motion of the centre of mass in (msd, vdos).")
    ] = False,
    resolution: Annotated[
        float | None, typer.Option(help="Resolution of the spectrum, cm⁻¹; by default 10, or that of 4 segments.")
    ] = None,
    dihedral: Annotated[
        str | None, typer.Option(help="Four atoms, counted from 0, e.g. 1,0,2,8; by default ethanol's C-C-O-H.")
    ] = None,
    core_deg: Annotated[
        float | None, typer.Option(help="Distance from a conformer's centre that enters it, degrees; default 30.")
    ] = None,
    mobile: Annotated[
        str | None, typer.Option(help="Element that hops, e.g. H or Li; by default hydrogen in crystals.")
    ] = None,
    hosts: Annotated[
        str | None, typer.Option(help="Elements between which it hops, e.g. S; by default anions, or all others.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="By how many Å a new host must be nearer than all others; default 0.3.")
    ] = None,
    profile_fs: Annotated[
        float | None, typer.Option(help="Time before and after a hop for the distance of its hosts, fs; default 200.")
    ] = None,
    events_fs: Annotated[
        str | None, typer.Option(help="Times of events for labels, fs, e.g. 1200,3400; default: transitions or hops.")
    ] = None,
    window_fs: Annotated[
        float | None, typer.Option(help="Time before and after an event for labels, fs; default 50.")
    ] = None,
) -> None:
    """Analyse one trajectory, or several replicas together.

    Each analysis prints its results and what it assumed, and writes a figure,
    a table (CSV) and a JSON file.
    """
    from bayes_mlff.analysis import analyse as analysis
    from bayes_mlff.analysis.options import Options

    given: dict[str, Any] = {
        "skip_ps": _at_least_zero("--skip-ps", skip_ps),
        "pairs": _pairs(pairs),
        "species": _words(species),
        "keep_drift": keep_drift,
        "dihedral": _atoms(dihedral),
        "mobile": mobile,
        "hosts": _words(hosts),
        "events_fs": None if events_fs is None else tuple(_numbers("--events-fs", events_fs)),
    }
    positive: dict[str, Any] = {"r_max": r_max, "bin_width": bin_width, "cutoff": cutoff, "resolution": resolution,
                "core_deg": core_deg, "margin": margin, "profile_fs": profile_fs, "window_fs": window_fs}  # fmt: skip
    for name, value in (*positive.items(), ("interval_fs", interval_fs)):
        if value is not None and not 0.0 < value < float("inf"):
            raise ConfigError("--" + name.replace("_", "-"), value, "a positive number")
    if core_deg is not None and core_deg > 60.0:
        raise ConfigError("--core-deg", core_deg, "at most 60, where the cores of two conformers meet")
    options = Options(**{name: value for name, value in (given | positive).items() if value is not None})
    names = _words(what)
    done = analysis.analyse(list(paths), what=names, output=output, interval_fs=interval_fs, options=options)
    _show(done)


def _show(done: "list[Analysed]") -> None:
    console = make_console()
    for each in done:
        if each.finding is None:
            continue
        console.print(f"\n{each.finding.title} ({each.name})", style="bold")
        for name, value in each.finding.rows:
            console.print(f"  {name:{WIDTH}} {value}")
        for text in each.finding.assumed:
            console.print(f"  · {text}", style="yellow" if text.startswith("WARNING") else "dim")
        console.print(f"  {'files':{WIDTH}} {', '.join(map(str, each.files))}")
    left_out = [each for each in done if each.finding is None]
    if left_out:
        console.print("\nLeft out", style="bold")
    for each in left_out:
        console.print(f"  {each.name:{WIDTH}} {each.reason}")


def _words(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(word.strip() for word in text.split(","))


def _pairs(text: str | None) -> tuple[tuple[str, str], ...] | None:
    found = []
    for word in _words(text) or ():
        first, separator, second = word.partition("-")
        if not separator or not first or not second:
            raise ConfigError("--pairs", word, "two elements with a hyphen, e.g. Mn-O")
        found.append((first, second))
    return tuple(found) or None


def _atoms(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    words = text.split(",")
    if len(words) != 4 or not all(word.strip().isdecimal() for word in words):
        raise ConfigError("--dihedral", text, "four atoms, counted from 0, with commas, e.g. 1,0,2,8")
    return tuple(map(int, words))


def _numbers(key: str, text: str) -> list[float]:
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(key, text, "numbers with commas") from error
    if not all(abs(x) < float("inf") for x in found):
        raise ConfigError(key, text, "finite numbers with commas")
    return found


def _at_least_zero(key: str, value: float | None) -> float | None:
    if value is not None and not 0.0 <= value < float("inf"):
        raise ConfigError(key, value, "a number from 0 on")
    return value
