"""A single model as a reference or for comparison."""

import numpy as np

from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.models.potential import Potential


def calculator(potential: Potential) -> EnsembleCalculator:
    """ASE calculator of one set of weights, whose energies have the zero of the model; it has no σ."""
    samples = potential.flat()[0][None]
    return EnsembleCalculator(Ensemble(potential.config, samples, np.zeros(1), SigmaFactors(), 1.0, 1.0, ""))
