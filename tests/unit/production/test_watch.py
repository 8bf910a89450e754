"""What the accuracy of a run means for other numbers of atoms, and what is watched."""

import numpy as np
import pytest
from scipy import stats

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.units import KCAL_MOL
from bayes_mlff.data.structure import Structure, repeated
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.ensemble import error_law
from bayes_mlff.ensemble.saved import Ensemble, OnlineCalibration, SigmaFactors
from bayes_mlff.otf import config as run_configuration
from bayes_mlff.posterior.likelihood import PerAtom
from bayes_mlff.production import config, watch
from bayes_mlff.production.material import Material
from bayes_mlff.testing.tiny import tiny_nequip

STATE = error_law.update(error_law.init(floor=0.002), 0.02, 0.01)
MODEL = tiny_nequip((1, 8), energy_shifts=(-1.0, -2.0))
UNIT = Structure(np.array([8, 1, 1]), np.eye(3), 4.0 * np.eye(3), np.ones(3, bool))
FORCE = {"kind": "force", "name": "oxygen", "threshold": "3 kcal/mol/Å", "indices": [0]}
EVERYWHERE = {"kind": "force", "name": "all", "threshold": "3 kcal/mol/Å"}


def material(*, threshold="0.5 kcal/mol", triggers=(), numbers=(8, 1, 1), **changes):
    raw = {"structure": "ethanol", "threshold": threshold, "triggers": list(triggers)}
    online = OnlineCalibration(STATE, threshold, 0.95)
    ensemble = Ensemble(
        MODEL, np.zeros((2, 5)), np.zeros((2, 2)), SigmaFactors(), 0.002, 0.01, "", np.array([[2, 1]]), {}, online
    )._replace(**changes)
    names = ("energy", *(trigger["name"] for trigger in triggers))
    known = dict.fromkeys(names, STATE) if ensemble.online else {}
    run = run_configuration.parse(raw)
    atoms = len(numbers) if ensemble.online else None
    return Material(b"", ensemble, InitialStructure(UNIT), run, known, numbers, atoms, "", "")


def watched(made, structure=UNIT, **settings):
    return watch.watch(made, config.parse(settings, made.run), structure)


def test_the_trigger_is_that_of_the_run():
    found = watched(material())
    expected = error_law.critical_sigma(STATE, 0.5 * KCAL_MOL, confidence=0.95)
    assert float(found.triggers[0].limit) == pytest.approx(float(expected)) and found.known
    assert found.highest[0] >= 20.0 * float(expected)
    assert dict(found.remarks)["threshold"].startswith("that of the run")


def test_thresholds_and_sigma_of_copies_grow_by_the_square_root_and_this_is_said():
    eight = repeated(UNIT, (2, 2, 2))
    made = material()
    found, once = watched(made, eight), watched(made)
    assert found.threshold_ev == pytest.approx(np.sqrt(8.0) * 0.5 * KCAL_MOL)
    assert float(found.triggers[0].limit) == pytest.approx(np.sqrt(8.0) * float(once.triggers[0].limit))
    said = dict(found.remarks)
    assert "√(24/3) = 2.828" in said["threshold"] and "per atom would be 4 kcal/mol" in said["threshold"]
    assert "not checked for others" in said["calibration"]
    assert watch.sigma_floor_ev(made, 24) == pytest.approx(np.sqrt(8.0) * 0.002)
    assert watch.sigma_floor_ev(material(energy_sigma_ev=PerAtom(0.1)), 24) == pytest.approx(2.4)
    per_atom = watched(material(threshold="1 meV/atom"), eight)
    assert per_atom.threshold_ev == pytest.approx(0.024) and "per atom" in dict(per_atom.remarks)["threshold"]
    given = watched(made, eight, threshold="2 kcal/mol")
    assert given.threshold_ev == pytest.approx(2.0 * KCAL_MOL)


def test_atoms_of_copies_are_watched_like_those_of_the_run():
    found = watched(material(triggers=[FORCE, EVERYWHERE]), repeated(UNIT, (3, 1, 1)))
    regions = [trigger.statistic.value.region.atoms for trigger in found.triggers[1:]]
    assert regions == [(0, 3, 6), tuple(range(9))]
    assert float(found.triggers[1].limit) == float(watched(material(triggers=[FORCE])).triggers[1].limit)
    other = UNIT._replace(numbers=np.array([1, 8, 1]))
    left = watched(material(triggers=[FORCE, EVERYWHERE]), other)
    assert [t.statistic.name for t in left.triggers] == ["energy", "all"]
    assert "not watched" in dict(left.remarks)["trigger oxygen"]
    alone = material(triggers=[FORCE])._replace(calibrations={"energy": STATE})
    assert "directory of the run" in dict(watched(alone).remarks)["trigger oxygen"]


def test_thresholds_that_grew_with_the_temperature_are_said_to_stay():
    ramp = [{"duration_ps": 1.0, "temperature_k": 300.0, "end_temperature_k": 600.0}]
    growing = FORCE | {"threshold_temperature_k": 500.0}
    made = material(triggers=[growing])
    raw = {
        "structure": "ethanol",
        "threshold": "0.5 kcal/mol",
        "threshold_temperature_k": 300.0,
        "triggers": [growing],
        "dynamics": {"duration_ps": 1.0, "schedule": ramp},
    }
    made = made._replace(run=run_configuration.parse(raw))
    said = [text for _, text in watched(made).remarks]
    assert sum("the one at 300 K throughout" in text for text in said) == 1
    assert sum("its threshold: in the run it grew" in text and "500 K" in text for text in said) == 1
    assert not any("300 K" in text for _, text in watched(made, threshold="1 kcal/mol").remarks)


def test_ensembles_without_a_calibration_by_a_run():
    plain = watched(material(online=None))
    assert not plain.known and plain.highest == (np.inf,) and "states none" in dict(plain.remarks)["threshold"]
    scaled = watched(material(online=None, factors=SigmaFactors(energy=2.5)), threshold="1 kcal/mol", confidence=0.9)
    assert float(scaled.triggers[0].limit) == pytest.approx(KCAL_MOL / (2.5 * stats.norm.ppf(0.95)))
    assert "validation set" in dict(scaled.remarks)["calibration"]
    unknown = watched(material(factors=SigmaFactors(energy=np.inf), online=None), threshold="1 kcal/mol")
    assert not unknown.known
    water = watched(material(), UNIT._replace(numbers=np.array([8, 8, 1])))
    assert not water.known and "composition" in dict(water.remarks)["energy"]


def test_one_sample_has_no_sigma():
    single = material(samples=np.zeros((1, 5)), online=None)
    assert "no σ" in dict(watched(single).remarks)["watched"]
    with pytest.raises(ConfigError, match=r"threshold.*no σ"):
        watched(single, threshold="1 kcal/mol")
