"""Bayesian fine-tuning of a pretrained model on labels that exist already: `fit(parse({...}))`, or `compare`."""

from typing import TYPE_CHECKING

from bayes_mlff.core.lazy import lazily

if TYPE_CHECKING:
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

__getattr__ = lazily(
    __name__,
    {
        "Comparison": "bayes_mlff.finetune.comparison",
        "Ensemble": "bayes_mlff.ensemble.saved",
        "EnsembleCalculator": "bayes_mlff.ensemble.calculator",
        "FinetuneConfig": "bayes_mlff.finetune.config",
        "OutsideTrainingWarning": "bayes_mlff.ensemble.calculator",
        "compare": "bayes_mlff.finetune.comparison",
        "fit": "bayes_mlff.finetune.run",
        "load_ensemble": "bayes_mlff.ensemble.saved:load",
        "parse": "bayes_mlff.finetune.config",
    },
)
