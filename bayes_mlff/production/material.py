"""What a production is made of: an ensemble, a structure, and what the run knows about its own accuracy.

A copy is kept in the folder `start` of the production, so that it continues without the run.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax.numpy as jnp
import numpy as np

from bayes_mlff.core import settings, units
from bayes_mlff.core.errors import BayesMlffError, ConfigError, DataError, RunDirectoryError, WeightsError
from bayes_mlff.data.structure import to_ase
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.ensemble import atomic_energies, files, saved
from bayes_mlff.ensemble.calculator import refuse_other_state
from bayes_mlff.ensemble.error_law import ErrorLaw
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.otf import config as run_configuration
from bayes_mlff.otf import systems
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.state import HostState
from bayes_mlff.production.config import START, ProductionConfig
from bayes_mlff.runs import checkpoint, trajectory
from bayes_mlff.runs import start as starts

ENSEMBLE: Final = "ensemble.safetensors"
STRUCTURE: Final = "structure.npz"
ABOUT: Final = "source.json"
FORMAT: Final = 1


class Source(NamedTuple):
    """A trained ensemble as the user names it."""

    path: Path  # absolute; directory of a run or a fine-tuning, or a file
    content: bytes  # of the file of the ensemble
    ensemble: Ensemble
    run: RunConfig | None  # configuration of the run; None after a fine-tuning on existing labels
    start: starts.Start | None  # what the run was started from; None where only a file is given
    host: HostState | None  # of the run's newest checkpoint


class Material(NamedTuple):
    """Everything that the dynamics needs."""

    content: bytes  # file of the ensemble that moves the atoms
    ensemble: Ensemble
    initial: InitialStructure  # before it is repeated
    run: RunConfig | None
    calibrations: Mapping[str, ErrorLaw]  # of a run, by name of the statistic; empty without one
    numbers: tuple[int, ...] | None  # atomic numbers in the run; None if unknown
    atoms: int | None  # number of atoms in the run; None if there was no run
    source: str  # path of the run, the fine-tuning or the file, for information
    sha256: str  # of the ensemble's file there


def read(path: Path) -> Source:
    """Read an ensemble and, if it is in the directory of a run, what that knows besides.

    Raises:
      ConfigError: if there is no ensemble.
      RunDirectoryError, WeightsError: if it cannot be read, or is of another format.
    """
    ensemble = saved.load(path)
    content = _content(path)
    run = _run_config(ensemble)
    if run is None or not (path / starts.FOLDER / starts.IDENTITY).is_file():
        return Source(path.absolute(), content, ensemble, run, None, None)
    _, metadata, _ = checkpoint.newest(path / files.CHECKPOINTS)
    return Source(path.absolute(), content, ensemble, run, starts.read(path), HostState.from_json(metadata))


def gather(source: Source, config: ProductionConfig, *, base: Path) -> Material:
    """Choose model and structure.

    Args:
      source: where the ensemble is.
      config: settings.
      base: folder from which the path of the structure starts.

    Raises:
      ConfigError: if the structure must be named and is not, or the model before the run is not known.
      DataError: if the structure cannot be read, or is of other elements, or of another charge or spin than the labels.
    """
    initial = _initial(source, config, base)
    content, ensemble = source.content, source.ensemble
    counts = None if ensemble.compositions is None else np.asarray(ensemble.compositions)
    atomic_energies.composition(initial.structure.numbers, ensemble.architecture.elements)
    refuse_other_state(ensemble, to_ase(initial.structure))
    if config.model == "pretrained":
        ensemble = pretrained(source)
        content = saved.serialised(ensemble)
    online = source.ensemble.online
    calibrations = {} if source.host is None else dict(source.host.calibrations)
    if online is not None and config.model == "ensemble":
        calibrations["energy"] = online.law
    known = online is not None and counts is not None and len(counts) == 1 and ensemble.own is None
    return Material(
        content,
        ensemble,
        initial,
        source.run,
        calibrations if config.model == "ensemble" else {},
        None if source.start is None else tuple(source.start.initial.structure.numbers.tolist()),
        int(counts.sum()) if known and counts is not None else None,
        str(source.path),
        hashlib.sha256(source.content).hexdigest(),
    )


def pretrained(source: Source) -> Ensemble:
    """The model before the run as an ensemble of one sample, on the energy scale that the first label sets.

    Raises:
      ConfigError: if the source is not the directory of a run.
    """
    if source.start is None or source.host is None:
        raise ConfigError(
            "model", "pretrained", f"ensemble: only the directory of a run holds it, and not {source.path}"
        )
    potential = source.start.potential
    counts = atomic_energies.composition(source.start.initial.structure.numbers, potential.config.elements)
    return source.ensemble._replace(
        architecture=potential.config,
        samples=jnp.asarray(potential.flat()[0])[None, :],
        offset_ev=source.host.offset_ev * counts[None, :] / np.sum(np.square(counts)),
        factors=SigmaFactors(),
        online=None,
        compositions=atomic_energies.independent(counts[None]),
        own=None,
        provenance={**source.ensemble.provenance, "model": "pretrained"},
    )


def contents(material: Material) -> dict[str, bytes]:
    """Contents of the files of the folder `start` by name; the last one names the digests of the others."""
    structure = starts.packed(material.initial)
    about = {
        "format": FORMAT,
        "source": material.source,
        "source_sha256": material.sha256,
        "ensemble": hashlib.sha256(material.content).hexdigest(),
        "structure": hashlib.sha256(structure).hexdigest(),
        "calibrations": {name: law.to_json() for name, law in material.calibrations.items()},
        "numbers": material.numbers,
        "atoms": material.atoms,
    }
    text = json.dumps(about, indent=2) + "\n"
    return {ENSEMBLE: material.content, STRUCTURE: structure, ABOUT: text.encode()}


def kept(production: Path) -> Material:
    """Read the copy in the directory of a production, with every bit unchanged.

    Raises:
      RunDirectoryError: if a file is missing, damaged or was replaced.
    """
    folder = production / starts.FOLDER
    about = _about(folder / ABOUT)
    content = starts.verified(folder / ENSEMBLE, about["ensemble"])
    structure = starts.verified(folder / STRUCTURE, about["structure"])
    ensemble = saved.load(folder / ENSEMBLE)
    return Material(
        content,
        ensemble,
        starts.unpacked(folder / STRUCTURE, structure),
        _run_config(ensemble),
        {name: ErrorLaw.from_json(law) for name, law in about["calibrations"].items()},
        None if about["numbers"] is None else tuple(about["numbers"]),
        about["atoms"],
        about["source"],
        about["source_sha256"],
    )


def same(left: Material, right: Material) -> str | None:
    """What differs between two materials, in words; None if the same bits come out of both."""
    if left.content != right.content:
        return f"another ensemble (from {right.source})"
    if starts.packed(left.initial) != starts.packed(right.initial):
        return "another structure"
    return None if left.calibrations == right.calibrations else "another calibration of the run"


def _about(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        wanted = {"source", "source_sha256", "ensemble", "structure", "calibrations", "numbers", "atoms"}
        if found["format"] != FORMAT or not wanted <= found.keys():
            raise ValueError(f"format {found['format']}; this version reads {FORMAT}")
    except (OSError, RecursionError, ValueError, LookupError, TypeError) as error:
        raise RunDirectoryError(f"{path}: damaged or missing ({type(error).__name__}: {error})") from error
    return found


def _content(path: Path) -> bytes:
    where = files.find(path)
    try:
        return where.read_bytes()
    except FileNotFoundError:  # a run that goes on has removed it
        return _content(path)
    except OSError as error:
        raise WeightsError(f"{where}: unreadable ({error})") from error


def _run_config(ensemble: Ensemble) -> RunConfig | None:
    """Configuration of the run that calibrated an ensemble; None after a fine-tuning, and for the model before a run.

    Raises:
      WeightsError: if the file states one that cannot be read.
    """
    if ensemble.online is None:
        return None
    try:
        return run_configuration.parse(settings.parse_yaml(ensemble.config_text, key="config", source=ENSEMBLE))
    except ConfigError as error:
        raise WeightsError(f"{ENSEMBLE}: the configuration of its run cannot be read ({error})") from error


def _initial(source: Source, config: ProductionConfig, base: Path) -> InitialStructure:
    wanted = config.structure
    if wanted is not None and wanted.file != START:
        try:
            return systems.initial_structure(wanted, base=base)
        except ConfigError as error:
            raise ConfigError(error.key, error.value, f"'{START}', {error.allowed}") from error
    if source.start is None:
        value = None if wanted is None else START
        allowed = f"the path of a structure: only the directory of a run holds one, and not {source.path}"
        raise ConfigError("structure", value, allowed)
    begun = source.start.initial
    if wanted is not None:
        return begun._replace(remarks=("that from which the run was started",))
    try:
        return _last_frame(source.path, begun)
    except BayesMlffError as error:
        remark = f"that from which the run was started, since no frame of its trajectory can be used ({error})"
        return begun._replace(remarks=(remark,))


def _last_frame(run: Path, begun: InitialStructure) -> InitialStructure:
    """The last stored frame of a run, with what its first structure has besides."""
    path = run / "trajectory.extxyz"
    index = trajectory.frames(path)
    last = trajectory.read_some(path, index, np.array([index.count - 1]))
    if not np.array_equal(last.numbers, begun.structure.numbers):
        raise DataError(f"{path}: other atoms than the run")
    cell = last.cells[0] if begun.structure.pbc.any() else begun.structure.cell
    structure = begun.structure._replace(positions=last.positions[0], cell=cell)
    masses = to_ase(structure).get_masses() if last.masses is None else last.masses
    velocities = None if last.momenta is None else last.momenta[0] / masses[:, None] * units.FS
    remark = f"the last stored frame of the run, of step {last.step[0]} ({last.time_fs[0] / 1000.0:g} ps)"
    return InitialStructure(structure, velocities, (remark,))
