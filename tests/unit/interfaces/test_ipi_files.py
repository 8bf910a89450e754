"""i-PI itself asks the driver, and has the energies, forces and stresses of the ensemble."""

import numpy as np
import pytest

from bayes_mlff.core.errors import DataError
from bayes_mlff.interfaces import ase_files, ipi_files

pytest.importorskip("ipi")


@pytest.mark.parametrize("kind", ["molecule", "crystal"])
def test_what_ipi_says_is_what_the_ensemble_says(kind, request, calculator):
    atoms = request.getfixturevalue(kind)
    frames = [atoms, atoms.copy()]
    frames[1].positions[0] += 0.05
    own, found = ase_files.evaluate(calculator, frames), ipi_files.evaluate(calculator, frames)
    for left, right in zip(own, found, strict=True):
        assert right.energy == pytest.approx(left.energy, rel=1e-7)
        np.testing.assert_allclose(right.forces, left.forces, rtol=1e-5, atol=1e-6)
        if left.stress is not None:
            np.testing.assert_allclose(right.stress, left.stress, rtol=1e-5, atol=1e-7)
    assert abs(found[0].energy - found[1].energy) > 1e-3


def test_an_error_of_ipi_is_shown(molecule, calculator, monkeypatch):
    monkeypatch.setattr(ipi_files, "init_xyz", lambda *_: "9\n# nothing\n")
    with pytest.raises(DataError, match="i-PI ended with status"):
        ipi_files.evaluate(calculator, [molecule])
