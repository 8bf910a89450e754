"""Writes the ensemble of a run, which can be used without the run, with each checkpoint and at the end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core import durable, settings, units
from bayes_mlff.core.errors import ConfigError, DataError, RunDirectoryError, WeightsError
from bayes_mlff.data import dataset
from bayes_mlff.data.structure import ElectronicState, Structure
from bayes_mlff.ensemble import atomic_energies, files, saved
from bayes_mlff.ensemble.saved import Ensemble, OnlineCalibration, SigmaFactors
from bayes_mlff.models.potential import Potential
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.state import HostState, RunState
from bayes_mlff.posterior import energy_zero
from bayes_mlff.runs import checkpoint
from bayes_mlff.runs.directory import CONFIG, DATASET, IN_FORCE, RunDirectory
from bayes_mlff.runs.growing_files import write_whole

PARAMETERS: Final = ".params"
"""Key path of the samples of the chains, [c, p + 1], in a checkpoint."""


def trained(
    config: RunConfig,
    potential: Potential,
    params: jax.Array,
    host: HostState,
    structure: Structure,
    provenance: Mapping[str, str],
) -> Ensemble:
    """Make the ensemble of a run at one step.

    Args:
      config: present configuration of the run.
      potential: the pretrained model, for the elements of the run.
      params: samples of the chains [c, p + 1], see `posterior.energy_zero`.
      host: for offset and calibration.
      structure: structure of a label, for composition and electronic state.
      provenance: origin, in addition to the step.
    """
    numbers = structure.numbers
    counts = atomic_energies.composition(numbers, potential.config.elements)
    sample = energy_zero.split(params)
    # An offset is one number for the whole structure: take the minimum-norm solution per atom of each element.
    above_ev = host.offset_ev - np.asarray(sample.zero, np.float64)
    per_atom = above_ev[:, None] * counts / np.sum(np.square(counts))
    online = OnlineCalibration(host.calibration, config.threshold, config.confidence)
    return Ensemble(
        potential.config,
        sample.weights,
        per_atom,
        SigmaFactors(),
        config.energy_sigma_ev(len(numbers)),
        config.likelihood.stress_sigma_kcal_mol_a3 * units.KCAL_MOL,
        settings.dump(config),
        atomic_energies.independent(counts[None]),
        _stated(structure.electronic),
        online,
        {**provenance, "step": str(host.step)},
        linear=config.posterior == "laplace",
    )


def read(run: Path, potential: Potential) -> Ensemble:
    """Make the ensemble of a run from its newest intact checkpoint; needed for runs of earlier versions.

    Args:
      run: run directory.
      potential: the pretrained model that it was started from.

    Raises:
      ConfigError: if its configuration is not valid.
      DataError: if its labels are unreadable or missing.
      RunDirectoryError: if there is no intact checkpoint.
    """
    arrays, metadata, _ = checkpoint.newest(run / files.CHECKPOINTS)
    in_force = run / IN_FORCE
    config = configuration.load(in_force if in_force.is_file() else run / CONFIG)
    records = [r for r in dataset.read(run / DATASET) if r.step <= metadata["step"]]
    if not records:
        raise DataError(f"{run / DATASET}: no label up to step {metadata['step']} of the newest checkpoint")
    about = {"run": run.name, "labels": str(len(records))}
    params, host = jnp.asarray(arrays[PARAMETERS]), HostState.from_json(metadata)
    return trained(config, potential, params, host, records[0].structure, about)


def _stated(state: ElectronicState) -> dict[str, float]:
    """Charge and spin of the labels, under the names that labelled frames use."""
    stated = {"charge": state.charge, "multiplicity": state.multiplicity}
    return {name: float(value) for name, value in stated.items() if value is not None}


class Artefact:
    """Writes the ensemble of a run next to its checkpoints."""

    def __init__(self, config: RunConfig, potential: Potential, run: RunDirectory):
        self._config, self._potential, self._run = config, potential, run
        self._last: tuple[Ensemble, Path] | None = None

    def keep(self, state: RunState, structure: Structure) -> None:
        """Write the ensemble that belongs to the checkpoint of this state.

        If nothing was learnt since the last one, the new file is a hard link to it.

        Args:
          state: state of the run.
          structure: structure of a label.

        Raises:
          RunDirectoryError: if it cannot be written.
        """
        device, host = state.device, state.host
        about = {"run": self._run.path.name, "labels": str(int(device.training_set.count))}
        made = trained(self._config, self._potential, device.params, host, structure, about)
        target = files.beside(checkpoint.at(self._run.checkpoints, host.step))
        last = self._last or self._found(target)
        if last is None or not saved.same(last[0], made) or not (last[1] == target or durable.link(last[1], target)):
            write_whole(target, saved.serialised(made))
        self._last = made, target

    @staticmethod
    def _found(path: Path) -> tuple[Ensemble, Path] | None:
        """The ensemble that an earlier process has written; None if it cannot be used, so that it is made again."""
        try:
            return saved.load(path), path
        except (OSError, ConfigError, WeightsError):
            return None


def publish(run: RunDirectory) -> None:
    """Copy the newest ensemble into the directory of a run that has ended.

    Raises:
      RunDirectoryError: if it cannot be read or written.
    """
    newest = files.kept(run.checkpoints)
    if newest is None:
        return
    try:
        content = newest.read_bytes()
    except OSError as error:
        raise RunDirectoryError(f"{newest}: cannot be read ({error.strerror}); resume when this is mended") from error
    write_whole(run.path / files.NAME, content)
