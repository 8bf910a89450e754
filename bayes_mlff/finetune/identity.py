"""Identity of a fine-tuning: its settings, and the labels and the model that they name."""

import hashlib
from pathlib import Path
from typing import Final, Literal

import numpy as np

from bayes_mlff.core.changes import changes
from bayes_mlff.core.errors import ConfigError, RunDirectoryError, shown
from bayes_mlff.core.settings import Section
from bayes_mlff.data.labelled_frames import Frames
from bayes_mlff.finetune import config as configuration
from bayes_mlff.finetune.config import FinetuneConfig
from bayes_mlff.finetune.data_config import DataConfig
from bayes_mlff.finetune.labelled import DataSets
from bayes_mlff.models import presets
from bayes_mlff.models.presets import Chosen
from bayes_mlff.models.registry import Potential
from bayes_mlff.posterior import energy_zero
from bayes_mlff.posterior.settings import EnergyZero
from bayes_mlff.posterior.transfer import stated_prior, stated_sampler
from bayes_mlff.runs.directory import RunDirectory

UNITS: Final = ("positions_unit", "energy_unit", "forces_unit", "stress_unit")

OPTIMISERS_TAKE: Final = ("batch_size", "friction")
"""Keys of the sampler that optimisers use: what every step of either depends on."""


def stated(config: FinetuneConfig, potential: Potential, train: Frames | None = None) -> FinetuneConfig:
    """The configuration as stored in the results directory: with the values that the model's preset and labels set.

    Args:
      config: as the user gave it, or as stored.
      potential: pretrained weights.
      train: training frames, which decide about the energy zero; without them it stays as it is.

    Raises:
      ConfigError: if the chains have too few steps for the preset, or the energy zero is to be fitted and cannot be.
    """
    chosen = preset(config, potential)
    # Optimisers take the batches and the friction of a sampler, but not its steps.
    size = config.sampler.batch_size or chosen.preset.batch_size
    only = config.sampler.model_copy(update={"batch_size": size})
    update: dict[str, Section] = {
        "prior": stated_prior(config.prior, chosen),
        "sampler": only if config.optimises else stated_sampler(config.sampler, chosen),
    }
    if train is not None:
        update["likelihood"] = config.likelihood.model_copy(update={"energy_zero": _energy_zero(config, size, train)})
    return config.model_copy(update=update)


def preset(config: FinetuneConfig, potential: Potential) -> Chosen:
    """The preset for a fine-tuning: of the model, or for random weights of its architecture."""
    return presets.of(potential, pretrained=not config.from_random_weights)


def _energy_zero(config: FinetuneConfig, batch_size: int, train: Frames) -> EnergyZero | Literal["absolute"] | None:
    given = config.likelihood.energy_zero
    if given == "absolute" and not config.learns_energy:
        raise ConfigError("likelihood.energy_zero", given, "fitted, learnt or null where energies are not learnt")
    if not config.learns_energy or train.energy is None:
        return given
    if given == "absolute" or (given is None and not isinstance(config.data.energy_per, str)):
        return "absolute"
    obstacle = None
    if len(np.unique(np.sort(train.numbers, axis=1), axis=0)) > 1:
        obstacle = "the training frames differ in composition"
    elif config.method == "laplace":
        obstacle = "method laplace expands the posterior around weights that reproduce the energies"
    elif batch_size == 1:
        obstacle = "a minibatch of one label (sampler.batch_size) has no differences of energies"
    return energy_zero.decided(given, obstacle)


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
            f"{path}: holds a fine-tuning with {named}; allowed: the same settings, or another output"
        )


def _lasting(config: FinetuneConfig) -> FinetuneConfig:
    """The configuration without settings that may change: those of evaluation and checks, and unused ones.

    The steps between checkpoints may change for samplers, but not for optimisers, which select their best parameters
    at these steps.
    """
    checks = dict.fromkeys(("doubtful_units", "duplicates", "electronic_states"), "refuse")
    # The digest of the labels covers their units, which earlier versions stored even if they were the default.
    unsaid = dict.fromkeys((*UNITS, "xyz_energy_key", "xyz_forces_key", "xyz_stress_key"))
    data: DataConfig = config.data.model_copy(update={"test": None, **checks, **unsaid})
    default = FinetuneConfig.model_fields
    names = ["evaluation_batch", "large_error_kcal_mol", "large_error_kcal_mol_a", "output"]
    names += ["checkpoint_steps"] if config.parallel is not None else []
    names += ["prior"] if config.from_random_weights else []
    names += [] if config.optimises else ["optimizer"]
    names += ["laplace"] if config.method != "laplace" else []
    update = {"data": data} | {key: default[key].default for key in names}
    update["sampler"] = config.sampler.model_copy(update={"memory_gib": None})
    if config.optimises:
        kept = {key: getattr(config.sampler, key) for key in OPTIMISERS_TAKE}
        update["sampler"] = default["sampler"].default.model_copy(update=kept)
        if not config.from_random_weights:  # the first weights of the σ head are drawn with the scale of the prior
            update["prior"] = default["prior"].default.model_copy(update={"scale": config.prior.scale})
    return config.model_copy(update=update)


def without_effect(config: FinetuneConfig) -> tuple[str, ...]:
    """Keys that are not at their defaults although the method does not use them.

    Args:
      config: as given, not from `stated`.
    """
    fields = FinetuneConfig.model_fields
    usual = {name: fields[name].default for name in ("prior", "optimizer", "laplace")}
    before = config.model_copy(update=usual | {"sampler": type(config.sampler)()})
    unused = ["prior.", "sampler.initial_spread"] if config.from_random_weights else []
    if config.optimises:
        unused += ["prior.kind", *(f"sampler.{name}" for name in type(config.sampler).model_fields)]
        unused += [] if config.method == "deep-ensemble" else ["optimizer.members"]
    else:
        unused.append("optimizer.")
    unused += [] if config.method == "laplace" else ["laplace."]
    used = {f"sampler.{name}" for name in (*OPTIMISERS_TAKE, "memory_gib")}
    found = (change.key for change in changes(before, config))
    return tuple(key for key in found if key not in used and key.startswith(tuple(unused)))


def digest(sets: DataSets, potential: Potential, *, with_weights: bool) -> str:
    """SHA-256 of labels, architecture and, if the method starts from them, pretrained weights."""
    total = hashlib.sha256(sets.digest().encode())
    total.update(potential.config.model_dump_json().encode())
    if with_weights:
        total.update(np.asarray(potential.flat()[0]).tobytes())
    return total.hexdigest()


def inputs_digest(sets: DataSets, potential: Potential) -> str:
    """SHA-256 of all inputs that a configuration names by path: labels of every set and the pretrained model."""
    total = hashlib.sha256(digest(sets, potential, with_weights=True).encode())
    if sets.test is not None:
        total.update(DataSets(sets.test, None, None).digest().encode())
    return total.hexdigest()
