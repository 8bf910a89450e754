"""A new reference engine is one module, here this one, and one row of the registry."""

from types import MappingProxyType
from typing import Literal

import numpy as np
import pytest

from bayes_mlff.core.errors import DataError, EngineFailedError
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines import registry
from bayes_mlff.engines.engine import CommonSettings, EngineBase, EngineResult, hash_settings

H2 = Structure(np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.8]]), np.zeros((3, 3)), np.zeros(3, bool))


class SpringSettings(CommonSettings):
    name: Literal["spring"] = "spring"
    stiffness: float = 2.0


class SpringEngine(EngineBase):
    """Atoms tied to the origin."""

    def __init__(self, settings, directory=None, *, base=None):
        self._settings = settings

    @property
    def settings_hash(self):
        return hash_settings("spring", "1", {"stiffness": self._settings.stiffness})

    @property
    def description(self):
        return "springs"

    def check(self, structure):
        pass

    def assumptions(self, structure):
        return ()

    def label(self, structure):
        k, x = self._settings.stiffness, structure.positions
        return EngineResult(Label(0.5 * k * float(np.sum(x**2)), -k * x), structure, True, 0.0, 1, ())


def test_a_row_is_all_that_a_new_engine_needs(monkeypatch):
    monkeypatch.setattr(registry, "ENGINES", MappingProxyType({**registry.ENGINES, SpringSettings: SpringEngine}))
    with registry.make_engine(SpringSettings(min_distance_angstrom=0.7)) as engine:
        np.testing.assert_allclose(engine.label(H2).label.forces, -2.0 * H2.positions)
        with pytest.raises(EngineFailedError, match=r"0\.640 Å apart"):
            engine.label(H2._replace(positions=0.8 * H2.positions))
        assert engine.save_state() is None
        with pytest.raises(DataError, match="springs has none"):
            engine.restore_state(b"of another engine")


def test_an_engine_without_labels_is_refused_when_it_is_made():
    class Unfinished(EngineBase):
        pass

    with pytest.raises(TypeError, match="label"):
        Unfinished()


def test_every_row_is_told_apart_by_its_name():
    assert sorted(registry.NAMES) == ["ase", "chgnet", "gpaw", "pyscf", "worker"]
    assert all(issubclass(settings, CommonSettings) for settings in registry.ENGINES)
