"""Sentences on what labels are like and which energies are known, for the output of a fine-tuning."""

from collections.abc import Mapping

import numpy as np

from bayes_mlff.ensemble.saved import Ensemble
from bayes_mlff.finetune import net_forces
from bayes_mlff.finetune.labelled import DataSets
from bayes_mlff.finetune.work import Ratio


def of_labels(sets: DataSets, work: Mapping[str, Ratio | None]) -> list[str]:
    """What was taken from the files and assumed, the state of the frames, work and net forces.

    Args:
      sets: as read.
      work: by the names of the sets, differences of energies over work.
    """
    state = ", ".join(f"{name} {value:g}" for name, value in sets.state.items())
    said = [*sets.remarks, *([f"all frames: {state}"] if state else [])]
    for name, ratio in work.items():
        if ratio is not None:
            said.append(
                f"data.{name}: differences of energies are {ratio.value:.3f} times the work of the forces "
                f"(1 is right; 95 % interval {ratio.lower:.3f} to {ratio.upper:.3f}, {ratio.pairs} pairs)"
            )
    for name, used in sets.named().items():
        said += net_forces.sentences(net_forces.net(used), f"data.{name}")
    return said


def of_energies(ensemble: Ensemble, sets: DataSets) -> list[str]:
    """Sets whose energies nothing in the training set determines, and a σ that nothing measures."""
    said = []
    if not np.isfinite(ensemble.factors.energy):
        said.append("energies are not learnt, and too few frames tell how wrong they are: their σ is infinite")
    for name, used in sets.named().items():
        outside = np.count_nonzero(~ensemble.knows_level(used.numbers))
        if used.energy is not None and outside:
            said.append(
                f"data.{name}: {outside} of {used.size} frames have compositions whose level of energy the training "
                "frames do not determine: their energies are left out of the metrics, and their σ is infinite"
            )
    return said
