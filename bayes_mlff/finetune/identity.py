"""What makes a fine-tuning the same one: its settings, and the labels and the model that they name."""

import hashlib
from pathlib import Path
from typing import Final

import numpy as np

from bayes_mlff.core.changes import changes
from bayes_mlff.core.errors import RunDirectoryError, shown
from bayes_mlff.core.settings import Section
from bayes_mlff.finetune import config as configuration
from bayes_mlff.finetune.config import DataConfig, FinetuneConfig, ParallelSchedule
from bayes_mlff.finetune.labelled import DataSets
from bayes_mlff.models.registry import Potential
from bayes_mlff.posterior.transfer import first_step_size, prior_scale
from bayes_mlff.runs.directory import RunDirectory

UNITS: Final = ("positions_unit", "energy_unit", "forces_unit", "stress_unit")


def stated(config: FinetuneConfig, potential: Potential) -> FinetuneConfig:
    """The configuration as the directory of the results states it: with what the architecture decides."""
    update: dict[str, Section] = {
        "prior": config.prior.model_copy(update={"scale": prior_scale(config.prior.scale, potential)})
    }
    schedule = config.schedule
    if isinstance(schedule, ParallelSchedule):
        size = first_step_size(schedule.step_size, potential)
        update["schedule"] = schedule.model_copy(update={"step_size": size})
    return config.model_copy(update=update)


def check_output(config: FinetuneConfig, path: Path) -> None:
    """Refuse a directory that holds another fine-tuning.

    Args:
      config: from `stated`.
      path: of the directory, which need not exist.

    Raises:
      RunDirectoryError: naming the settings that differ.
    """
    config_file = RunDirectory(path).config
    if not config_file.is_file():
        return
    found = changes(_lasting(configuration.load(config_file)), _lasting(config))
    if found:
        named = "; ".join(f"{c.key} {shown(c.before)}, got {shown(c.after)}" for c in found)
        raise RunDirectoryError(
            f"{path}: holds a fine-tuning with {named}; allowed: the settings that it holds, or another output"
        )


def _lasting(config: FinetuneConfig) -> FinetuneConfig:
    """The configuration without what may change: what concerns only the evaluation or checks, or is not used.

    The steps between checkpoints may for samplers; optimisers choose their best parameters after as many.
    """
    checks = dict.fromkeys(("doubtful_units", "duplicates", "electronic_states"), "refuse")
    # The digest of the labels says whether they are read in the same units; earlier versions stated the usual ones.
    unsaid = dict.fromkeys((*UNITS, "xyz_energy_key", "xyz_forces_key", "xyz_stress_key"))
    data: DataConfig = config.data.model_copy(update={"test": None, **checks, **unsaid})
    default = FinetuneConfig.model_fields
    names = ["evaluation_batch", "large_error_kcal_mol_a", "output"]
    names += ["checkpoint_steps"] if config.parallel is not None else []
    names += ["prior"] if config.optimises or config.from_random_weights else []
    names += ["schedule"] if config.optimises else ["optimizer"]
    names += ["laplace"] if config.method != "laplace" else []
    return config.model_copy(update={"data": data} | {key: default[key].default for key in names})


def digest(sets: DataSets, potential: Potential, *, with_weights: bool) -> str:
    """SHA-256 of labels, architecture and, where a method begins with them, pretrained weights."""
    total = hashlib.sha256(sets.digest().encode())
    total.update(potential.config.model_dump_json().encode())
    if with_weights:
        total.update(np.asarray(potential.flat()[0]).tobytes())
    return total.hexdigest()


def inputs_digest(sets: DataSets, potential: Potential) -> str:
    """SHA-256 of all that a configuration names by its path: the labels of every set and the pretrained model."""
    total = hashlib.sha256(digest(sets, potential, with_weights=True).encode())
    if sets.test is not None:
        total.update(DataSets(sets.test, None, None).digest().encode())
    return total.hexdigest()
