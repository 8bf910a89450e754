"""Sentences on what labels are like and which energies are known, for the output of a fine-tuning."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from bayes_mlff.ensemble.saved import Ensemble
from bayes_mlff.finetune import net_forces
from bayes_mlff.finetune.labelled import DataSets
from bayes_mlff.finetune.work import Ratio, Untested

OFF: Final = 1.05
"""How far from 1 an interval may end."""
WIDE: Final = 1.5
"""Upper over lower end of an interval of the ratio of a set that says too little."""


def of_labels(sets: DataSets, work: Mapping[str, Ratio | Untested]) -> list[str]:
    """What was taken from the files and assumed, the state of the frames, work and net forces.

    Args:
      sets: as read.
      work: by the names of the sets, differences of energies over work.
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


def _of_work(name: str, ratio: Ratio | Untested, *, whole: bool) -> list[str]:
    """The ratio of a set, with a warning where it is not 1, or why there is none; of compositions only warnings."""
    if isinstance(ratio, Untested):
        reason = f"data.{name}: that energies and forces belong together could not be tested, because {ratio.reason}"
        few = "; nor were units compared with the pretrained model" if "fewer than 8 frames" in ratio.reason else ""
        return [reason + few] if whole else []
    doubtful = ratio.upper < 1.0 / OFF or ratio.lower > OFF or ratio.upper > WIDE * ratio.lower
    if not (whole or doubtful):
        return []
    return [
        f"{'warning: ' if doubtful else ''}data.{name}: differences of energies are {ratio.value:.3f} times the work "
        f"of the forces (1 is right; 95 % interval {ratio.lower:.3f} to {ratio.upper:.3f}, {ratio.pairs} pairs)"
        + ("; are all labels of one origin, in the same units?" if doubtful else "")
    ]


def of_energies(ensemble: Ensemble, sets: DataSets) -> list[str]:
    """Sets whose energies nothing in the training set determines, and a σ that nothing measures."""
    said = []
    if not np.isfinite(ensemble.factors.energy):
        said.append("energies are not learnt, and too few frames tell how wrong they are: their σ is infinite")
    for name, used in sets.named().items():
        outside = np.count_nonzero(~ensemble.knows_energy(used.numbers))
        if used.energy is not None and outside:
            said.append(
                f"data.{name}: {outside} of {used.size} frames have compositions whose atomic reference energies the "
                "training frames do not determine: their energies are left out of the metrics, and their σ is infinite"
            )
    return said
