"""The command `bayes-mlff export`: what was learnt, as files that other programs use or start from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bayes_mlff.cli.produce import refuse_production
from bayes_mlff.core.command_line import make_console
from bayes_mlff.core.errors import ConfigError

if TYPE_CHECKING:
    from bayes_mlff.report.program_export import Exported

WIDTH = 10
"""Width of the names in front of results."""


def export(
    path: Annotated[
        Path, typer.Argument(help="Directory of a run or of a fine-tuning; with --to also the file of an ensemble.")
    ],
    folder: Annotated[Path | None, typer.Argument(metavar="[OUTPUT]", help="New or empty folder.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The same, as an option.")] = None,
    what: Annotated[
        str | None,
        typer.Option(
            help="ensemble (one file for EnsembleCalculator), chains (a model of each chain, or of the one optimum, to "
            "start from; the default) or model (a .model file of mace-torch for each; the default with --template)."
        ),
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="The .model file that was started from, for --what model.")
    ] = None,
    trust: Annotated[bool, typer.Option(help="Allow the code that the template contains to be run.")] = False,
    to: Annotated[
        str | None,
        typer.Option(
            help="A program that shall use the ensemble: ase, ipi, lammps or openmm. Writes a folder with an example "
            "that runs, and compares the program's predictions with the ensemble's own."
        ),
    ] = None,
    structure: Annotated[
        Path | None, typer.Option(help="File of the structure of the example, for --to; by default that of the run.")
    ] = None,
) -> None:
    """Write trained models: for another program, as one ensemble, or as one model per chain.

    Of a run, those of its last checkpoint.
    """
    from bayes_mlff.api import runner

    if (folder is None) == (output is None):
        got = None if folder is None else f"{folder} and --output {output}"
        raise ConfigError("output", got, "a new or an empty folder, once")
    target = folder or output
    assert target is not None
    refuse_production(path, "export")
    if to is not None:
        for option, value in (("--what", what), ("--template", template), ("--trust", trust)):
            if value:
                raise ConfigError(option, str(value), "none with --to, which takes the whole ensemble")
        _show(runner.export_to(path, to, target, structure=structure), target)
        return
    if structure is not None:
        raise ConfigError("--structure", str(structure), "this option with --to")
    written = runner.export(path, target, what=what, template=template, trust=trust)
    make_console().print(f"wrote {', '.join(each.name for each in written)} to {target}")


def _show(exported: "Exported", target: Path) -> None:
    console, program = make_console(), exported.program
    console.print(
        f"{program.title} against the ensemble's own prediction, {exported.parity.frames} structures", style="bold"
    )
    for each in exported.parity.differences:
        console.print(f"  {each.quantity:{WIDTH}} {each.row}")
    if all(each.quantity != "stress" for each in exported.parity.differences):
        console.print(f"  {'stress':{WIDTH}} none in {program.title} for this structure")
    for text in exported.remarks:
        console.print(f"  · {text}", style="dim")
    console.print(f"wrote {', '.join(exported.files)} to {target}")
    console.print(f"try it: cd {target}; {program.command}")
