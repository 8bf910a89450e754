"""What to fine-tune on which labels, and how: one YAML file, validated before anything is computed."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from bayes_mlff.core import settings, units
from bayes_mlff.core.settings import Count, Energy, Positive, Section, Seed
from bayes_mlff.core.template import commented
from bayes_mlff.finetune.data_config import DataConfig
from bayes_mlff.posterior.likelihood import EnergySigma, PerAtom
from bayes_mlff.posterior.settings import (
    MOST_CHAINS,
    EnergyZero,
    HeadName,
    LikelihoodSettings,
    LongChain,
    ModelName,
    ParallelChains,
    PriorSettings,
)

Method = Literal["sghmc", "scratch", "adam", "laplace", "deep-ensemble"]


class PriorConfig(PriorSettings):
    """Independent normal prior of the weights."""

    kind: Literal["transfer", "normal"] = Field(
        default="transfer",
        description="Centre of the prior: transfer puts it on the pretrained weights; normal is N(0, 1) whatever "
        "prior.scale is, which then decides only how far apart the chains start.",
    )


class FinetuneLikelihood(LikelihoodSettings):
    """Standard deviations of the labels in the likelihood; that of the forces is predicted by the model."""

    energy_sigma: Energy = Field(
        default="0.05 kcal/mol",
        description="Standard deviation of the energy in the likelihood, with its unit: of the total energy of any "
        "structure, or with /atom behind the unit multiplied by the number of atoms.",
    )
    energy_zero: EnergyZero | Literal["absolute"] | None = Field(
        default=None,
        description="Zero of the energies: fitted gives every sample the constant that fits the training energies "
        "best, so that its weights learn differences of energies; learnt leaves the constant to the weights, which "
        "slows the learning of forces down; both fit an atomic reference energy to every element. absolute fits "
        "nothing: labels and model have the same zero, as adsorption or formation energies have. null means absolute "
        "if data.energy_per lists elements, else fitted if all training frames have the same composition, else learnt.",
    )


class ParallelSampler(ParallelChains):
    """Short independent SGHMC chains, each of which gives one sample of the posterior."""

    kind: Literal["parallel"] = Field(
        default="parallel", description="Schedule of the chains: parallel for many chains with one sample each."
    )


Sampler = Annotated[ParallelSampler | LongChain, Field(discriminator="kind")]


class OptimizerConfig(Section):
    """Optimiser of the methods adam, laplace and deep-ensemble."""

    steps: Count = Field(default=2000, description="Number of steps of every optimised model.")
    learning_rate: Positive = Field(
        default=1e-3,
        description="Learning rate at the first step; 1e-2 in the paper, which starts from random weights.",
    )
    final_learning_rate: Positive = Field(
        default=1e-5, description="Learning rate at the end of its exponential decay, which takes all steps."
    )
    members: Count = Field(
        default=8, le=MOST_CHAINS, description="Number of models of a deep ensemble, each from its own random weights."
    )


class LaplaceConfig(Section):
    """Laplace approximation of the method laplace."""

    samples: int = Field(
        default=30,
        ge=2,
        le=MOST_CHAINS,
        description="Number of samples that are drawn from the normal posterior of the last layer.",
    )


class FinetuneConfig(Section):
    """Everything that defines a fine-tuning."""

    renamed: ClassVar[dict[str, str]] = {
        "schedule": "sampler",
        "batch_size": "sampler.batch_size",
        "friction": "sampler.friction",
        "energy_sigma": "likelihood.energy_sigma",
        "stress_sigma_kcal_mol_a3": "likelihood.stress_sigma_kcal_mol_a3",
    }

    data: DataConfig = Field(description="Labelled structures to learn from, to validate and to test on.")
    model: ModelName = "nequip-md17-small"
    head: HeadName = None
    output: str = Field(
        default="finetuned", description="Directory of the results; a fine-tuning that it holds is continued."
    )
    method: Method = Field(
        default="sghmc",
        description="Method of learning: sghmc draws samples of the posterior. Baselines are scratch (the same from "
        "random weights, prior N(0, 1)), adam (one optimised model from the pretrained weights), laplace (the same "
        "with a normal posterior of its last layer), deep-ensemble (optimised from random weights).",
    )
    targets: Literal["energy", "forces", "energy+forces", "energy+forces+stress"] = Field(
        default="energy+forces",
        description="Labels to learn from; stress is learnt of periodic structures only. With energy alone files need "
        "no forces, forces that are there are not used, and the result predicts none.",
    )
    prior: PriorConfig = Field(default=PriorConfig(), description="Prior of the weights.")
    likelihood: FinetuneLikelihood = Field(
        default=FinetuneLikelihood(), description="Standard deviations of the labels."
    )
    sampler: Sampler = Field(
        default=ParallelSampler(),
        description="SGHMC chains, which sample the posterior; batch_size and friction are those of the optimisers, "
        "too.",
    )
    optimizer: OptimizerConfig = Field(
        default=OptimizerConfig(), description="Optimiser of the methods adam, laplace and deep-ensemble."
    )
    laplace: LaplaceConfig = Field(default=LaplaceConfig(), description="Approximation of the method laplace.")
    large_error_kcal_mol_a: Positive = Field(
        default=1.0,
        description="Size above which a force error counts as large, kcal/mol/Å: the area under the ROC curve says how "
        "well the predicted σ points to such errors.",
    )
    large_error_kcal_mol: Positive = Field(
        default=1.0,
        description="The same for errors of energies, kcal/mol, per what data.energy_per says.",
    )
    evaluation_batch: Count = Field(default=32, description="Number of frames that are predicted at a time.")
    checkpoint_steps: Count = Field(
        default=500,
        description="Largest number of steps between checkpoints; parallel chains take at least the steps between two "
        "adjustments of their noise levels, up to 50.",
    )
    seed: Seed = Field(default=0, description="Seed of all random numbers but those that draw frames.")

    @field_validator("sampler", mode="before")
    @classmethod
    def _parallel_unless_said(cls, value: Any) -> Any:
        return {"kind": "parallel"} | value if isinstance(value, dict) else value

    @property
    def energy_sigma_ev(self) -> EnergySigma:
        """Energy σ of the likelihood."""
        one, two = (
            units.parse_energy(self.likelihood.energy_sigma, n_atoms=n, key="likelihood.energy_sigma") for n in (1, 2)
        )
        return one if one == two else PerAtom(one)

    @property
    def learns_forces(self) -> bool:
        """True if forces are among the labels to learn from."""
        return self.targets != "energy"

    @property
    def learns_energy(self) -> bool:
        """True if energies are among the labels to learn from."""
        return self.targets != "forces"

    @property
    def learns_stress(self) -> bool:
        """True if stress is among the labels to learn from."""
        return self.targets == "energy+forces+stress"

    @property
    def fits_energy_zero(self) -> bool:
        """True if every sample gets the energy zero that fits best; known once `identity.stated` has decided."""
        return self.learns_energy and self.likelihood.energy_zero == "fitted"

    @property
    def optimises(self) -> bool:
        """True if the chains of the method end in point estimates instead of samples of a posterior."""
        return self.method in ("adam", "laplace", "deep-ensemble")

    @property
    def side_by_side(self) -> int:
        """Chains or members that are advanced together."""
        if self.method == "deep-ensemble":
            return self.optimizer.members
        return 1 if self.parallel is None else self.parallel.chains

    @property
    def parallel(self) -> ParallelSampler | None:
        """Parallel chains of a sampler, whose noise levels are adjusted while they are cold; else None."""
        return self.sampler if isinstance(self.sampler, ParallelSampler) and not self.optimises else None

    @property
    def pace(self) -> str:
        """Key of the size of the steps."""
        if self.optimises:
            return "optimizer.learning_rate"
        return "sampler.step_size" if isinstance(self.sampler, ParallelSampler) else "sampler.start or sampler.peak"

    @property
    def from_random_weights(self) -> bool:
        """True if the pretrained weights are not used."""
        return self.method in ("scratch", "deep-ensemble")


def parse(raw: Any) -> FinetuneConfig:
    """Validate a configuration read from YAML.

    Raises:
      ConfigError: for the first problem, naming the dotted key, what came and what is allowed.
    """
    return settings.validate(FinetuneConfig, raw)


def load(path: Path) -> FinetuneConfig:
    """Read and validate a YAML file.

    Raises:
      ConfigError: if the file is missing, not YAML, or invalid.
    """
    return settings.validate(FinetuneConfig, settings.read_yaml(path), source=path)


def template(config: FinetuneConfig) -> str:
    """The configuration as YAML, each key under a comment that says what it means."""
    return commented(config, "Configuration of a fine-tuning on labelled structures. Unknown keys are refused.")
