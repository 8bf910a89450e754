"""Scales of energy, and the one place where an energy goes from one to another.

| scale | an energy on it | where it is found |
|---|---|---|
| network | as a network gives it: isolated atoms have none | training sets, predictions inside compiled dynamics |
| total | with the energies of the isolated atoms | thermo.csv, predictions in dataset.extxyz, reports |
| reference | as the reference method gives it | labels in dataset.extxyz, as the engine gave them |

total = network + isolated atoms = reference + offset. The offset is chosen by the first label of a run, on which the
pretrained model and the reference agree; it takes up how the two count the energy of an atom.
"""

from typing import NamedTuple, TypeVar

import numpy as np

from bayes_mlff.core.errors import DataError
from bayes_mlff.data.dataset import LabelRecord

Energy = TypeVar("Energy", float, np.ndarray)


class EnergyScale(NamedTuple):
    """What lies between the scales, for structures of one composition."""

    isolated_ev: float  # energy of the isolated atoms of the pretrained model, added to the networks' energies
    offset_ev: float = 0.0  # added to the energies of the reference

    def network_to_total(self, energy: Energy) -> Energy:
        """Add the isolated atoms to an energy of a network, eV."""
        return energy + self.isolated_ev

    def total_to_network(self, energy: Energy) -> Energy:
        """Take the isolated atoms from a total energy, eV."""
        return energy - self.isolated_ev

    def reference_to_total(self, energy: Energy) -> Energy:
        """Put an energy of the reference on the scale of predictions, eV."""
        return energy + self.offset_ev

    def total_to_reference(self, energy: Energy) -> Energy:
        """Put a prediction on the scale of the reference, eV."""
        return energy - self.offset_ev

    def reference_to_network(self, energy: Energy) -> Energy:
        """What a network learns of an energy of the reference, eV."""
        return self.total_to_network(self.reference_to_total(energy))

    def matching(self, total: float, reference: float) -> "EnergyScale":
        """The scale on which this reference energy has this total energy, eV: the offset of a first label."""
        return self._replace(offset_ev=total - reference)


def total_energy(record: LabelRecord) -> float:
    """Energy of a label on the scale of predictions, eV."""
    return EnergyScale(0.0, record.energy_offset).reference_to_total(record.label.energy)


def error(record: LabelRecord) -> float:
    """Predicted minus reference total energy of a label, eV.

    Raises:
      DataError: if it was not predicted before it was known, as the first label of a run.
    """
    if record.predicted_energy_mean is None:
        raise DataError(f"dataset: the label of step {record.step} has no prediction to compare it with")
    return record.predicted_energy_mean - total_energy(record)
