"""Comparison of this package's networks with the numbers of reference implementations."""

from collections.abc import Iterable, Sequence

import numpy as np

from bayes_mlff.data.structure import Structure
from bayes_mlff.models.force_sigma import SIGMA_UNIT
from bayes_mlff.models.registry import Potential
from bayes_mlff.testing import tolerances
from bayes_mlff.testing.model_battery import Evaluator, Model
from tests.support.frozen_numbers import OBSERVABLES

Numbers = tuple[float, np.ndarray, np.ndarray]
"""Energy, eV; forces, eV/Å; virial, eV."""


def evaluate(potential: Potential, structures: Sequence[Structure]) -> list[Numbers]:
    """Total energy, forces and virial of each structure; one compilation for all. The σ head must be one of zeros."""
    config = potential.config
    evaluator = Evaluator(Model(potential.node_fn, potential.params, config.elements, config.r_max))
    results = []
    for structure, out in zip(structures, evaluator(structures), strict=True):
        np.testing.assert_allclose(out.sigma, SIGMA_UNIT, rtol=1e-12)
        results.append((out.energy + potential.isolated_energy(structure.numbers), out.forces, out.virial))
    return results


def assert_same(got: Iterable, expected: Iterable, tolerance: float = tolerances.PARITY) -> None:
    """Compare observables, each relative to its largest number."""
    for name, a, b in zip(OBSERVABLES, got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.0, atol=tolerance * np.abs(b).max(), err_msg=name)
