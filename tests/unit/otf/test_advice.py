"""A time step that is long for the lightest atom that moves is warned about, others are not."""

import numpy as np
import pytest

from bayes_mlff.data.structure import Structure
from bayes_mlff.otf.advice import longest_timestep_fs, of_structure, timestep_warning

WATER = np.array([8, 1, 1])


@pytest.mark.parametrize(
    ("timestep", "numbers", "masses", "most"),
    [
        (5.0, WATER, None, "1 fs"),
        (1.5, WATER, None, "1 fs"),
        (1.0, WATER, None, None),
        (0.5, WATER, None, None),
        (1.4, WATER, [16.0, 2.014, 2.014], None),
        (1.6, WATER, [16.0, 2.014, 2.014], "1.4 fs"),
        (1.4, WATER, [16.0, 2.014, 1.008], "1 fs"),
        (1.7, WATER, [16.0, 3.016, 3.016], None),
        (2.0, np.array([6, 8]), None, None),
        (3.0, np.array([6, 8]), None, "2 fs"),
        (4.0, np.array([29] * 4), None, None),
        (10.0, np.array([29] * 4), None, "4 fs"),
        (10.0, np.array([79]), None, "7 fs"),
        (1.0, WATER, [16.0, 0.5, 0.5], "0.7 fs"),
        (10.0, np.array([], int), None, None),
    ],
)
def test_the_lightest_atom_decides(timestep, numbers, masses, most):
    said = timestep_warning(timestep, None if masses is None else np.array(masses), numbers)
    if most is None:
        assert said is None
    else:
        assert f"dynamics.timestep_fs = {timestep:g}" in said and said.endswith(f"at most {most}"), said


def test_the_limit_grows_with_the_mass_and_with_its_root_for_isotopes():
    masses = np.geomspace(0.5, 300.0, 200)
    limits = np.array([longest_timestep_fs(m) for m in masses])
    assert (np.diff(limits) >= 0.0).all()
    assert longest_timestep_fs(2.016) == pytest.approx(np.sqrt(2.0))


def test_held_atoms_do_not_count_and_the_masses_of_the_structure_do():
    water = Structure(WATER, np.eye(3), np.zeros((3, 3)), np.zeros(3, bool))
    assert "H of 1.008 amu" in of_structure(2.0, water)
    assert of_structure(2.0, water._replace(masses=np.array([16.0, 4.0, 4.0]))) is None
    held = np.array([[False] * 3, [True] * 3, [True] * 3])
    assert of_structure(2.0, water._replace(fixed=held)) is None
    partly = held.copy()
    partly[2, 0] = False
    assert "H of" in of_structure(2.0, water._replace(fixed=partly))
