"""Lattice parameters of known cells."""

import numpy as np
from ase import Atoms

from bayes_mlff.analysis.lattice import lattice


def test_lattice_of_a_triclinic_and_of_a_pseudo_cubic_cell():
    cells = Atoms(cell=[5.0, 6.0, 8.0, 80.0, 95.0, 100.0]).cell.array[None]
    lengths, angles, divisors = lattice(cells, pseudo_cubic=False)
    assert np.allclose(lengths, [5.0, 6.0, 8.0])
    assert np.allclose(angles, [80.0, 95.0, 100.0])
    assert divisors == ["", "", ""]
    a = 3.9
    pnma = np.diag([a * np.sqrt(2), 2 * a, a * np.sqrt(2)])[None]
    lengths, _, divisors = lattice(pnma, pseudo_cubic=True)
    assert np.allclose(lengths, a, rtol=1e-14)
    assert divisors == ["/√2", "/2", "/√2"]
