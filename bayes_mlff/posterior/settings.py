"""Settings of model, posterior and sampler, under the same keys wherever chains are configured."""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from bayes_mlff.core.settings import Count, Positive, Section
from bayes_mlff.models.known.entry import BATCH_SIZE, COLD_STEPS

MOST_CHAINS: Final = 1024
"""Sets of weights that are held at a time."""


WARM: Final = "steps must exceed cold_steps + ramp_steps, or no sample is taken at temperature 1"

ModelName = Annotated[
    str,
    Field(
        description="Pretrained model: the name of a known one, or the path of a .safetensors, .model, .nqx, "
        ".nequip.zip or .pth file."
    ),
]

HeadName = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=200,
        description="Head of the model, by name, where its file has several (a .model file; the modalities of a .pth "
        "file): the others are dropped. null where it has one.",
    ),
]


PosteriorKind = Literal["chains", "laplace"]
"""How the posterior of the weights is represented; see `chains` and `laplace`."""

EnergyZero = Literal["fitted", "learnt"]
"""How the constant that all energies have in common is found; see `energy_zero`."""


class SamplerStep(Section):
    """What every SGHMC step depends on, whatever the schedule of the chains is."""

    batch_size: Count | None = Field(
        default=None,
        description="Number of labelled structures in a minibatch; without it that of the model's preset, mostly "
        f"{BATCH_SIZE}; the paper's long chains have 30.",
    )
    friction: float = Field(
        default=0.1,
        gt=0.0,
        le=1.0,
        description="Friction coefficient α: the part of the momentum that is lost at every step. The optimisers of a "
        "fine-tuning take 1 - α as the decay β1 of their momentum.",
    )
    eps: Positive = Field(
        default=1e-4,
        description="Number ε that is added to the square root of AMSGrad's second moment to make the mass of a "
        "weight, so that weights with small gradients do not move too fast.",
    )

    memory_gib: Positive | None = Field(
        default=None,
        description="Memory of each device that the intermediate results of an update may take, GiB: with less of it "
        "fewer labels and chains are evaluated at once. null means most of what the device has free.",
    )

    @property
    def batch(self) -> int:
        """`batch_size`, or what it mostly is where neither a preset nor the user has set it yet."""
        return BATCH_SIZE if self.batch_size is None else self.batch_size


class ParallelChains(SamplerStep):
    """Short independent SGHMC chains, each of which gives one sample of the posterior."""

    chains: int = Field(
        default=8, ge=2, le=MOST_CHAINS, description="Number of independent chains, each of which gives one sample."
    )
    steps: Count = Field(
        default=2000,
        ge=10,
        multiple_of=10,
        description="Number of steps of every chain, a multiple of 10; on the fly, of those after each label.",
    )
    step_size: Positive | None = Field(
        default=None,
        description="Step size γ0 at the start, from which it falls to zero along a cosine; without it that of the "
        "model's preset, in general 0.001 for nequip, 0.001 for mace, 0.001 for equiformer_v2.",
    )
    cold_steps: int | None = Field(
        default=None,
        ge=0,
        lt=2**31,
        description="Number of first steps at temperature 0, in which the chains only descend; without it that of the "
        f"model's preset, mostly {COLD_STEPS}; take four fifths of all steps where the model has much to learn.",
    )
    ramp_steps: Count = Field(
        default=100, description="Number of steps after the cold ones in which the temperature rises from 0 to 1."
    )
    initial_spread: float = Field(
        default=0.25,
        ge=0.0,
        le=1.0,
        description="Standard deviation of the chains' starting points around the centre of the prior, as a fraction "
        "of prior.scale.",
    )

    @property
    def cold(self) -> int:
        """`cold_steps`, or what it mostly is where neither a preset nor the user has set it yet."""
        return COLD_STEPS if self.cold_steps is None else self.cold_steps

    @property
    def samples_nothing(self) -> bool:
        """True if the chains end before they are at temperature 1."""
        return self.steps <= self.cold + self.ramp_steps

    @model_validator(mode="after")
    def _warm(self) -> "ParallelChains":
        if self.samples_nothing:
            raise ValueError(WARM)
        return self


class LongChain(SamplerStep):
    """One long SGHMC chain: its step size decays exponentially, then falls in cosine cycles with one sample each."""

    kind: Literal["long"] = Field(
        default="long", description="Schedule of the chains: long for one chain with many samples."
    )
    samples: int = Field(
        default=8,
        ge=2,
        le=MOST_CHAINS,
        description="Number of samples: the first at the end of the decay, then one at the end of each cycle.",
    )
    decay_steps: Count = Field(
        default=20_000, description="Number of steps of the exponential decay; 1 000 000 in the paper."
    )
    cycle_steps: Count = Field(default=1000, description="Number of steps of a cosine cycle; 50 000 in the paper.")
    start: Positive = Field(
        default=3e-3, description="Step size at the first step; 1e-2 in the paper, which starts from random weights."
    )
    end: Positive = Field(default=1e-5, description="Step size at the end of the exponential decay.")
    peak: Positive = Field(default=1e-3, description="Step size at the start of every cosine cycle.")
    eps: Positive = Field(
        default=1e-5,
        description="Number ε that is added to the square root of AMSGrad's second moment to make the mass of a "
        "weight.",
    )


class LaplaceSettings(Section):
    """Laplace approximation of the posterior around one optimised set of weights."""

    samples: int = Field(
        default=16,
        ge=2,
        le=MOST_CHAINS,
        description="Number of samples of the weights, which are evaluated to first order around the optimum.",
    )
    force_directions: int = Field(
        default=8,
        ge=0,
        le=MOST_CHAINS,
        description="Number of random sums of force components by which the forces of a label narrow the posterior; "
        "fewer where there are many labels. 0 leaves the forces to the optimum alone.",
    )


class PriorSettings(Section):
    """Independent normal prior of the weights."""

    scale: Positive | None = Field(
        default=None,
        description="Standard deviation σ_TL of every weight around its pretrained value; without it that of the "
        "model's preset, in general 0.2 for nequip, 0.5 for mace, 0.2 for equiformer_v2.",
    )


class LikelihoodSettings(Section):
    """Standard deviations of the labels in the likelihood; that of the forces is predicted by the model."""

    stress_sigma_kcal_mol_a3: Positive = Field(
        default=0.1 / 16.0,
        description="Standard deviation of a stress component in the likelihood, kcal/mol/Å³; it has no effect where "
        "no stress is learnt.",
    )
