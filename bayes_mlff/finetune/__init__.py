"""Bayesian fine-tuning of a pretrained model on labels that exist already: `fit(parse({...}))`, or `compare`."""

from bayes_mlff.ensemble.calculator import EnsembleCalculator, OutsideTrainingWarning
from bayes_mlff.ensemble.saved import Ensemble
from bayes_mlff.ensemble.saved import load as load_ensemble
from bayes_mlff.finetune.comparison import Comparison, compare
from bayes_mlff.finetune.config import FinetuneConfig, parse
from bayes_mlff.finetune.run import fit

__all__ = [
    "Comparison",
    "Ensemble",
    "EnsembleCalculator",
    "FinetuneConfig",
    "OutsideTrainingWarning",
    "compare",
    "fit",
    "load_ensemble",
    "parse",
]
