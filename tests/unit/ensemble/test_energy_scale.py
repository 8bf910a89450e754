"""Energies go from scale to scale and back, and the first label fixes the offset."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayes_mlff.core.errors import DataError
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble import energy_scale
from bayes_mlff.ensemble.energy_scale import EnergyScale

ENERGIES = st.floats(-1e6, 1e6)
SCALES = st.builds(EnergyScale, ENERGIES, ENERGIES)
CLOSE = {"rel": 0.0, "abs": 1e-8}  # of sums of 1e6 in double precision


@given(SCALES, ENERGIES)
def test_the_way_back_is_the_way_there(scale, energy):
    assert scale.total_to_network(scale.network_to_total(energy)) == pytest.approx(energy, **CLOSE)
    assert scale.total_to_reference(scale.reference_to_total(energy)) == pytest.approx(energy, **CLOSE)
    learnt = scale.reference_to_network(energy)
    assert scale.total_to_reference(scale.network_to_total(learnt)) == pytest.approx(energy, **CLOSE)


@given(SCALES, ENERGIES, st.floats(-10.0, 10.0))
def test_differences_are_the_same_on_every_scale(scale, energy, difference):
    ways = (scale.network_to_total, scale.total_to_network, scale.reference_to_total, scale.total_to_reference)
    for way in (*ways, scale.reference_to_network):
        assert way(energy + difference) - way(energy) == pytest.approx(difference, **CLOSE)


@given(SCALES, ENERGIES, ENERGIES)
def test_a_first_label_has_the_energy_of_the_pretrained_model(scale, total, reference):
    matched = scale.matching(total, reference)
    assert matched.isolated_ev == scale.isolated_ev
    assert matched.reference_to_total(reference) == pytest.approx(total, **CLOSE)


def test_isolated_atoms_have_no_energy_on_the_scale_of_networks():
    scale = EnergyScale(isolated_ev=-40.0, offset_ev=3.0)
    assert scale.total_to_network(-40.0) == 0.0 and scale.network_to_total(0.0) == -40.0
    assert scale.reference_to_total(-43.0) == -40.0 and scale.reference_to_network(-43.0) == 0.0
    np.testing.assert_array_equal(scale.network_to_total(np.array([1.0, 2.0])), [-39.0, -38.0])


def record(**changes):
    still = Structure(np.array([6]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool))
    return LabelRecord(still, Label(-43.5, np.zeros((1, 3))), 7, 0.0, "uncertain", 3.0, None, "x", 1.0)._replace(
        **changes
    )


def test_the_error_of_a_label_is_taken_on_the_scale_of_predictions():
    assert energy_scale.total_energy(record()) == -40.5
    assert energy_scale.error(record(predicted_energy_mean=-40.0)) == 0.5
    with pytest.raises(DataError, match="step 7 has no prediction"):
        energy_scale.error(record())
