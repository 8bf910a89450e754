"""Bayesian on-the-fly fine-tuning of foundation interatomic potentials in JAX."""

from bayes_mlff.data.graph import Graph
from bayes_mlff.data.labels import Label
from bayes_mlff.data.neighbors import NeighborSpec, NeighborState
from bayes_mlff.data.structure import Structure, from_ase, to_ase
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.ensemble.calibration import Calibration
from bayes_mlff.ensemble.predictive import Predictive, combine
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.models.energetics import Prediction, predictor
from bayes_mlff.models.nequip import NequIP
from bayes_mlff.models.registry import Potential
from bayes_mlff.models.registry import load as load_model
from bayes_mlff.posterior.chains import otf_chains
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.sghmc.transform import sghmc

__all__ = [
    "Calibration",
    "EnsembleCalculator",
    "GaussianPrior",
    "Graph",
    "Label",
    "Likelihood",
    "NeighborSpec",
    "NeighborState",
    "NequIP",
    "NequIPConfig",
    "Potential",
    "Prediction",
    "Predictive",
    "Structure",
    "TrainingSet",
    "combine",
    "from_ase",
    "load_model",
    "otf_chains",
    "predictor",
    "sghmc",
    "to_ase",
]
