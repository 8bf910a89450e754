"""Sentences for the output of a fine-tuning: properties of the labels, and which energies are known."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from bayes_mlff.ensemble.saved import Ensemble
from bayes_mlff.finetune import net_forces
from bayes_mlff.finetune.config import FinetuneConfig
from bayes_mlff.finetune.labelled import DataSets
from bayes_mlff.finetune.work import Ratio, Untested

OFF: Final = 1.05
"""Factor from 1 within which the ends of an interval cause no warning."""
WIDE: Final = 1.5
"""Ratio of the upper to the lower end of an interval above which a warning says that the set is inconclusive."""


def of_labels(sets: DataSets, work: Mapping[str, Ratio | Untested]) -> list[str]:
    """What was read and assumed, charge and spin of the frames, energies against work, and net forces.

    Args:
      sets: labelled sets as read.
      work: by name of the set, ratio of energy differences to the work of the forces.
    """
    state = ", ".join(f"{name} {value:g}" for name, value in sets.state.items())
    said = [*sets.remarks, *([f"all frames: {state}"] if state else [])]
    for name, used in sets.named().items():
        units = sets.units.get(name)
        if used.stress is not None and units is not None and (name == "train" or units is not sets.units.get("train")):
            said.append(f"data.{name}: stress taken as {units.stress}, positive in {units.sign} (data.stress_sign)")
    for name, ratio in work.items():
        said += _of_work(name, ratio, whole=name in sets.named())
    for name, used in sets.named().items():
        said += net_forces.sentences(net_forces.net(used), f"data.{name}")
    return said


def of_targets(config: FinetuneConfig, sets: DataSets) -> list[str]:
    """What is learnt of the energies, whether forces are, and whether σ is scaled.

    Args:
      config: from `identity.stated`.
      sets: labelled sets as read.
    """
    said = []
    if sets.train.energy is None:
        keys = f"{config.data.energies_key} of npz, {config.data.xyz_energy_key or 'REF_energy or energy'} of others"
        said.append(
            f"no energies in the data ({keys}): the samples have the atomic reference energies of the pretrained model"
        )
    if config.fits_energy_zero:
        said.append("energies are learnt as differences: every sample has the energy zero that fits its labels best")
    if config.likelihood.energy_zero == "absolute":
        said.append(
            "energies are taken as they are (likelihood.energy_zero: absolute): no atomic reference energies and no "
            "constant are fitted between labels and model"
        )
    if not isinstance(config.data.energy_per, str):
        said.append(
            f"energies of the files are per atom of {', '.join(config.data.energy_per)} (data.energy_per): total "
            "energies are learnt, metrics are per such atom"
        )
    elif config.data.energy_per == "atom":
        said.append("energies of the files are per atom (data.energy_per): total energies are learnt")
    if not config.learns_forces:
        said.append("forces are not learnt (targets: energy): the result predicts energies alone")
    if sets.validation is None:
        said.append("no validation frames: σ is not scaled; set data.validation or data.validation_frames to scale it")
    return said


def _of_work(name: str, ratio: Ratio | Untested, *, whole: bool) -> list[str]:
    """The ratio of a set with a warning if it is not 1, or why there is none; for compositions only warnings."""
    if isinstance(ratio, Untested):
        reason = f"data.{name}: the consistency of energies and forces could not be tested, because {ratio.reason}"
        few = "; nor were units compared with the pretrained model" if "fewer than 8 frames" in ratio.reason else ""
        return [reason + few] if whole else []
    doubtful = ratio.upper < 1.0 / OFF or ratio.lower > OFF or ratio.upper > WIDE * ratio.lower
    if not (whole or doubtful):
        return []
    return [
        f"{'warning: ' if doubtful else ''}data.{name}: energy differences are {ratio.value:.3f} times the work "
        f"of the forces (1 is right; 95 % interval {ratio.lower:.3f} to {ratio.upper:.3f}, {ratio.pairs} pairs)"
        + ("; do all labels have the same source and units?" if doubtful else "")
    ]


def of_energies(ensemble: Ensemble, sets: DataSets) -> list[str]:
    """Sets whose energy zero the training set does not determine, and energies whose σ could not be estimated."""
    said = []
    if not np.isfinite(ensemble.factors.energy):
        said.append("energies are not learnt, and too few frames estimate their errors: their σ is infinite")
    for name, used in sets.named().items():
        outside = np.count_nonzero(~ensemble.knows_energy(used.numbers))
        if used.energy is not None and outside:
            said.append(
                f"data.{name}: {outside} of {used.size} frames have compositions whose atomic reference energies the "
                "training frames do not determine: their energies are left out of the metrics, and their σ is infinite"
            )
    return said
