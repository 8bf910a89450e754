"""Bayesian on-the-fly fine-tuning of foundation interatomic potentials in JAX.

A name is imported when it is first used, so that `import bayes_mlff` costs nothing.
"""

from typing import TYPE_CHECKING

from bayes_mlff.core.lazy import lazily

if TYPE_CHECKING:
    from bayes_mlff.analysis.analyse import analyse
    from bayes_mlff.api.door import (
        Campaign,
        FineTuned,
        Production,
        RunResult,
        fine_tune,
        load,
        produce,
        run,
        run_campaign,
    )
    from bayes_mlff.core.errors import BayesMlffError
    from bayes_mlff.core.units import KCAL_MOL_PER_EV
    from bayes_mlff.data.graph import Graph
    from bayes_mlff.data.labels import Label
    from bayes_mlff.data.neighbors import NeighborSpec, NeighborState
    from bayes_mlff.data.neighbors import allocate as allocate_neighbors
    from bayes_mlff.data.neighbors import move as move_neighbors
    from bayes_mlff.data.neighbors import update as update_neighbors
    from bayes_mlff.data.structure import Structure, from_ase, to_ase
    from bayes_mlff.engines.registry import make_engine
    from bayes_mlff.ensemble.calculator import EnsembleCalculator
    from bayes_mlff.ensemble.error_law import ErrorLaw
    from bayes_mlff.ensemble.predictive import Predictive, combine
    from bayes_mlff.ensemble.triggers import on_energy
    from bayes_mlff.finetune.config import FinetuneConfig
    from bayes_mlff.finetune.config import parse as finetune_config
    from bayes_mlff.md.chunk import Stop, make_chunk
    from bayes_mlff.md.integrators import initial_state as initial_md_state
    from bayes_mlff.models.config import MACEConfig, NequIPConfig
    from bayes_mlff.models.energetics import Prediction, predictor
    from bayes_mlff.models.mace import MACE
    from bayes_mlff.models.nequip import NequIP
    from bayes_mlff.models.potential import Potential
    from bayes_mlff.models.registry import load as load_model
    from bayes_mlff.otf.config import RunConfig
    from bayes_mlff.otf.config import parse as run_config
    from bayes_mlff.otf.problem import first_parameters as first_chains
    from bayes_mlff.otf.problem import prepare as prepare_problem
    from bayes_mlff.otf.systems import structure as load_structure
    from bayes_mlff.posterior.chains import otf_chains
    from bayes_mlff.posterior.likelihood import Likelihood
    from bayes_mlff.posterior.prior import GaussianPrior
    from bayes_mlff.posterior.training_set import TrainingSet
    from bayes_mlff.posterior.training_set import allocate as allocate_training_set
    from bayes_mlff.posterior.training_set import append as append_label
    from bayes_mlff.sghmc.transform import sghmc as sghmc_transform

__all__ = [
    "KCAL_MOL_PER_EV",
    "MACE",
    "BayesMlffError",
    "Campaign",
    "EnsembleCalculator",
    "ErrorLaw",
    "FineTuned",
    "FinetuneConfig",
    "GaussianPrior",
    "Graph",
    "Label",
    "Likelihood",
    "MACEConfig",
    "NeighborSpec",
    "NeighborState",
    "NequIP",
    "NequIPConfig",
    "Potential",
    "Prediction",
    "Predictive",
    "Production",
    "RunConfig",
    "RunResult",
    "Stop",
    "Structure",
    "TrainingSet",
    "allocate_neighbors",
    "allocate_training_set",
    "analyse",
    "append_label",
    "combine",
    "fine_tune",
    "finetune_config",
    "first_chains",
    "from_ase",
    "initial_md_state",
    "load",
    "load_model",
    "load_structure",
    "make_chunk",
    "make_engine",
    "move_neighbors",
    "on_energy",
    "otf_chains",
    "predictor",
    "prepare_problem",
    "produce",
    "run",
    "run_campaign",
    "run_config",
    "sghmc_transform",
    "to_ase",
    "update_neighbors",
]

__getattr__ = lazily(
    __name__,
    {
        "BayesMlffError": "bayes_mlff.core.errors",
        "EnsembleCalculator": "bayes_mlff.ensemble.calculator",
        "ErrorLaw": "bayes_mlff.ensemble.error_law",
        "FineTuned": "bayes_mlff.api.door",
        "FinetuneConfig": "bayes_mlff.finetune.config",
        "GaussianPrior": "bayes_mlff.posterior.prior",
        "Graph": "bayes_mlff.data.graph",
        "KCAL_MOL_PER_EV": "bayes_mlff.core.units",
        "Label": "bayes_mlff.data.labels",
        "Likelihood": "bayes_mlff.posterior.likelihood",
        "MACE": "bayes_mlff.models.mace",
        "MACEConfig": "bayes_mlff.models.config",
        "NeighborSpec": "bayes_mlff.data.neighbors",
        "NeighborState": "bayes_mlff.data.neighbors",
        "NequIP": "bayes_mlff.models.nequip",
        "NequIPConfig": "bayes_mlff.models.config",
        "Potential": "bayes_mlff.models.potential",
        "Prediction": "bayes_mlff.models.energetics",
        "Predictive": "bayes_mlff.ensemble.predictive",
        "Production": "bayes_mlff.api.door",
        "RunConfig": "bayes_mlff.otf.config",
        "RunResult": "bayes_mlff.api.door",
        "Stop": "bayes_mlff.md.chunk",
        "Structure": "bayes_mlff.data.structure",
        "TrainingSet": "bayes_mlff.posterior.training_set",
        "allocate_neighbors": "bayes_mlff.data.neighbors:allocate",
        "allocate_training_set": "bayes_mlff.posterior.training_set:allocate",
        "analyse": "bayes_mlff.analysis.analyse",
        "append_label": "bayes_mlff.posterior.training_set:append",
        "combine": "bayes_mlff.ensemble.predictive",
        "fine_tune": "bayes_mlff.api.door",
        "finetune_config": "bayes_mlff.finetune.config:parse",
        "first_chains": "bayes_mlff.otf.problem:first_parameters",
        "from_ase": "bayes_mlff.data.structure",
        "initial_md_state": "bayes_mlff.md.integrators:initial_state",
        "load": "bayes_mlff.api.door",
        "load_model": "bayes_mlff.models.registry:load",
        "load_structure": "bayes_mlff.otf.systems:structure",
        "make_chunk": "bayes_mlff.md.chunk",
        "make_engine": "bayes_mlff.engines.registry",
        "move_neighbors": "bayes_mlff.data.neighbors:move",
        "on_energy": "bayes_mlff.ensemble.triggers",
        "otf_chains": "bayes_mlff.posterior.chains",
        "predictor": "bayes_mlff.models.energetics",
        "prepare_problem": "bayes_mlff.otf.problem:prepare",
        "Campaign": "bayes_mlff.api.door",
        "run_campaign": "bayes_mlff.api.door",
        "produce": "bayes_mlff.api.door",
        "run": "bayes_mlff.api.door",
        "run_config": "bayes_mlff.otf.config:parse",
        "sghmc_transform": "bayes_mlff.sghmc.transform:sghmc",
        "to_ase": "bayes_mlff.data.structure",
        "update_neighbors": "bayes_mlff.data.neighbors:update",
    },
)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
