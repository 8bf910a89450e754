"""Energy scales, and all conversions between them.

| scale | an energy on it | where it is found |
|---|---|---|
| network | output of a network: zero for isolated atoms | training sets, predictions inside compiled dynamics |
| total | with the energies of the isolated atoms | thermo.csv, predictions in dataset.extxyz, reports |
| reference | result of the reference method | labels in dataset.extxyz, unchanged from the engine |

total = network + isolated atoms = reference + offset. The offset is set at the first label of a run, so that the
pretrained model and the reference agree there; it accounts for their different zeros of energy.
"""

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from bayes_mlff.core.errors import DataError

if TYPE_CHECKING:  # `status` uses scales without the records, whose import is slow (ASE)
    from bayes_mlff.data.dataset import LabelRecord

Energy = TypeVar("Energy", float, np.ndarray)


class EnergyScale(NamedTuple):
    """Differences between the energy scales, for structures of one composition."""

    isolated_ev: float  # energy of the isolated atoms of the pretrained model, added to the networks' energies
    offset_ev: float = 0.0  # added to the energies of the reference

    def network_to_total(self, energy: Energy) -> Energy:
        """Convert an energy of a network to a total energy, eV."""
        return energy + self.isolated_ev

    def total_to_network(self, energy: Energy) -> Energy:
        """Convert a total energy to one on the network's scale, eV."""
        return energy - self.isolated_ev

    def reference_to_total(self, energy: Energy) -> Energy:
        """Convert a reference energy to a total energy, eV."""
        return energy + self.offset_ev

    def total_to_reference(self, energy: Energy) -> Energy:
        """Convert a total energy to one on the scale of the reference, eV."""
        return energy - self.offset_ev

    def reference_to_network(self, energy: Energy) -> Energy:
        """Convert a reference energy to the network's scale, for training, eV."""
        return self.total_to_network(self.reference_to_total(energy))

    def matching(self, total: float, reference: float) -> "EnergyScale":
        """The scale whose offset makes a reference energy equal to a total energy, eV; for the first label."""
        return self._replace(offset_ev=total - reference)


def total_energy(record: "LabelRecord") -> float:
    """Total energy of a label, eV."""
    return EnergyScale(0.0, record.energy_offset).reference_to_total(record.label.energy)


def error(record: "LabelRecord") -> float:
    """Predicted minus reference total energy of a label, eV.

    Raises:
      DataError: if the label has no prediction, like the first label of a run.
    """
    if record.predicted_energy_mean is None:
        raise DataError(f"dataset: the label of step {record.step} has no prediction to compare it with")
    return record.predicted_energy_mean - total_energy(record)
