"""Read trajectories, do what applies or what was asked for, and write the findings."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from bayes_mlff.analysis import finding, replica
from bayes_mlff.analysis.finding import Finding
from bayes_mlff.analysis.options import Options
from bayes_mlff.analysis.replica import Replica
from bayes_mlff.core import durable
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.runs import replica_folders

ANALYSES: Final = {
    "rdf": "rdf",
    "msd": "msd",
    "vdos": "vdos",
    "bonds": "bond_lengths",
    "dihedral": "dihedrals",
    "hops": "hops",
    "lattice": "cell",
    "labels": "labels",
}
"""Names of the analyses, and the modules in `findings` that do them."""


class Analysed(NamedTuple):
    """What became of one analysis."""

    name: str
    finding: Finding | None  # None if it was left out
    files: list[Path]
    reason: str  # why it was left out


def analyse(
    paths: Sequence[str | Path],
    *,
    what: Sequence[str] | None = None,
    output: str | Path | None = None,
    interval_fs: float | None = None,
    options: Options | None = None,
) -> list[Analysed]:
    """Analyse trajectories of one system, several replicas together, and write figures, tables and JSON files.

    Args:
      paths: directories of runs or productions, of which all replicas are read, or files that ASE reads.
      what: names of `ANALYSES`; by default all that apply.
      output: folder, made if missing; by default `default_folder` of the first path.
      interval_fs: time between frames, fs, for files that do not say it.
      options: choices for the analyses.

    Returns:
      One entry for each analysis; without `what`, those that do not apply say why.

    Raises:
      ConfigError: if an option is not possible for these trajectories, or a file cannot be written.
      DataError, RunDirectoryError: if a trajectory cannot be read, they are of different systems, an analysis that was
        asked for is not possible, or none applies.
    """
    if not paths:
        raise ConfigError("path", [str(each) for each in paths], "at least one trajectory")
    unknown = [name for name in what or () if name not in ANALYSES]
    if unknown:
        raise ConfigError("--what", unknown[0], ", ".join(ANALYSES))
    replicas = [replica.read(each, interval_fs) for path in paths for each in _trajectories(Path(path))]
    replica.check_together(replicas)
    chosen = options or Options()
    folder = default_folder(Path(paths[0])) if output is None else Path(output)
    done, source = [], [_source(each) for each in replicas]
    for name in what or ANALYSES:
        try:
            made = _find(name)(replicas, chosen)
        except DataError as error:
            if what is not None:
                raise
            done.append(Analysed(name, None, [], str(error)))
            continue
        _make(folder)
        done.append(Analysed(name, made, finding.write(made, folder, source), ""))
    if not any(each.finding for each in done):
        raise DataError(f"nothing applies: {'; '.join(f'{each.name}: {each.reason}' for each in done)}")
    return done


def _trajectories(path: Path) -> list[Path]:
    """The replicas of a production; of anything else the path itself."""
    return replica_folders.of(path) or [path]


def default_folder(path: Path) -> Path:
    """`analysis` in the directory of a run, or NAME-analysis beside a file."""
    return path / "analysis" if path.is_dir() else path.with_name(f"{path.stem}-analysis")


def _find(name: str) -> Callable[[list[Replica], Options], Finding]:
    """The function of an analysis, imported when it is needed: scipy's signal processing is slow to import."""
    return importlib.import_module(f"bayes_mlff.analysis.findings.{ANALYSES[name]}").find


def _source(each: Replica) -> dict[str, Any]:
    time = each.time_fs
    return {
        "path": each.name,
        "atoms": len(each.numbers),
        "frames": len(each.positions),
        "begin_fs": None if time is None else float(time[0]),
        "end_fs": None if time is None else float(time[-1]),
        "velocities": each.velocities is not None,
        "labels": None if each.label_fs is None else len(each.label_fs) + each.unasked,
    }


def _make(folder: Path) -> None:
    try:
        durable.make_folder(folder)
    except OSError as error:
        raise ConfigError("--output", str(folder), f"a folder that can be made ({error.strerror})") from error
