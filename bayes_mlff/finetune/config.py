"""What to fine-tune on which labels, and how: one YAML file, validated before anything is computed."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from bayes_mlff.core import settings, units
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.settings import Count, Positive, Section, Seed
from bayes_mlff.posterior.likelihood import EnergySigma, PerAtom

MOST_CHAINS: Final = 1024
"""Sets of weights that are held at a time."""

Method = Literal["sghmc", "scratch", "adam", "laplace", "deep-ensemble"]


PositionUnit = Literal["A", "bohr", "nm"]
EnergyUnit = Literal["eV", "meV", "kcal/mol", "kJ/mol", "hartree", "Ry"]
ForceUnit = Literal[
    "eV/A", "eV/bohr", "eV/nm", "meV/A", "meV/bohr", "meV/nm", "kcal/mol/A", "kcal/mol/bohr", "kcal/mol/nm",
    "kJ/mol/A", "kJ/mol/bohr", "kJ/mol/nm", "hartree/A", "hartree/bohr", "hartree/nm", "Ry/A", "Ry/bohr", "Ry/nm",
]  # fmt: skip
StressUnit = Literal["eV/A^3", "GPa", "kbar", "hartree/bohr^3"]


class DataConfig(Section):
    """Labelled sets: .npz of one molecule, or .xyz, .extxyz, .traj, .db, .json (.gz, .bz2, .xz) of any structures."""

    train: str = Field(description="Path of the labels to learn from.")
    validation: str | None = Field(
        default=None, description="Path of frames that scale σ and, when optimising, choose among steps."
    )
    test: str | None = Field(default=None, description="Path of frames that are only predicted.")
    frames: Count | None = Field(default=None, description="Training frames to use; all without it.")
    validation_frames: Count | None = Field(
        default=None, description="In place of validation: so many frames of the training file, drawn at random."
    )
    test_frames: Count | None = Field(default=None, description="In place of test: the same.")
    draw_seed: Seed | None = Field(
        default=None,
        description="Draw the frames at random with this seed; without it they are the first of those not set aside.",
    )
    frames_seed: Seed | None = Field(
        default=None,
        description="Draw the training frames with this seed, the fewer being among the more; draw_seed then only sets "
        "frames aside.",
    )
    numbers_key: str = Field(default="z", description="npz: atomic numbers.")
    positions_key: str = Field(default="R", description="npz: positions.")
    energies_key: str = Field(default="E", description="npz: energies of the structures.")
    forces_key: str = Field(default="F", description="npz: forces.")
    xyz_energy_key: str | None = Field(
        default=None,
        description="Other files: energy of a structure; without it REF_energy, or in files without REF_energy and "
        "REF_forces what ASE takes for a calculator's, free_energy before energy.",
    )
    xyz_forces_key: str | None = Field(
        default=None, description="Other files: forces; without it REF_forces or forces."
    )
    xyz_stress_key: str | None = Field(
        default=None, description="Other files: stress; without it REF_stress or stress."
    )
    positions_unit: PositionUnit | None = Field(
        default=None, description="Of positions and cells; without it what the file states, else A (Å)."
    )
    energy_unit: EnergyUnit | None = Field(default=None, description="Without it what the file states, else eV.")
    forces_unit: ForceUnit | None = Field(
        default=None,
        description="Without it what the file states, of forces or of energy and positions, else eV/A.",
    )
    stress_unit: StressUnit | None = Field(default=None, description="Without it what the file states, else eV/A^3.")
    stress_sign: Literal["tension", "compression"] = Field(
        default="tension", description="What is positive in the files; compression for what VASP prints."
    )
    doubtful_units: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="What to do where another unit explains bond lengths, forces against differences of energies, or "
        "the pretrained model far better.",
    )
    electronic_states: Literal["refuse", "allow"] = Field(
        default="refuse", description="What to do about frames that state different charges or spins."
    )
    duplicates: Literal["refuse", "allow"] = Field(
        default="refuse", description="What to do about a geometry that is there twice, in one set or in two."
    )

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        for name in ("validation", "test"):
            if getattr(self, name) is not None and getattr(self, f"{name}_frames") is not None:
                raise ValueError(f"{name} and {name}_frames are both given; allowed: one of them")
        return self


class PriorConfig(Section):
    """Independent normal prior of the weights."""

    kind: Literal["transfer", "normal"] = Field(
        default="transfer", description="Centred on the pretrained weights, or N(0, 1)."
    )
    scale: Positive | None = Field(
        default=None,
        description="Standard deviation σ_TL of the prior around the pretrained weights; without it that of the "
        "model's architecture, 0.2 for nequip, 0.5 for mace.",
    )


class ParallelSchedule(Section):
    """Short independent chains, one sample each, as after the first label of an on-the-fly run."""

    kind: Literal["parallel"] = "parallel"
    chains: int = Field(default=8, ge=2, le=MOST_CHAINS, description="Independent chains, one sample each.")
    steps: Count = Field(default=2000, ge=10, multiple_of=10, description="Steps of every chain.")
    step_size: Positive | None = Field(
        default=None,
        description="First step size γ0 of the falling cosine; without it that of the model's architecture, 0.001 for "
        "nequip, 0.001 for mace.",
    )
    cold_steps: int = Field(
        default=400,
        ge=0,
        lt=2**31,
        description="Steps at temperature 0; four fifths of all where the model has much to learn.",
    )
    ramp_steps: Count = Field(default=100, description="Steps from temperature 0 to 1.")
    initial_spread: float = Field(
        default=0.25, ge=0.0, le=1.0, description="Chains start at draws from the prior narrowed by this factor."
    )
    eps: Positive = Field(default=1e-4, description="ε of the mass.")

    @model_validator(mode="after")
    def _warm(self) -> "ParallelSchedule":
        if self.steps <= self.cold_steps + self.ramp_steps:
            raise ValueError("steps must exceed cold_steps + ramp_steps, or no sample is taken at temperature 1")
        return self


class LongSchedule(Section):
    """One chain: exponential decay of the step size, then falling cosine cycles with one sample each."""

    kind: Literal["long"] = "long"
    samples: int = Field(
        default=8, ge=2, le=MOST_CHAINS, description="The first at the end of the decay, one after each cycle."
    )
    decay_steps: Count = Field(default=20_000, description="Steps of the decay; 1 000 000 in the paper.")
    cycle_steps: Count = Field(default=1000, description="Steps of a cycle; 50 000 in the paper.")
    start: Positive = Field(default=3e-3, description="First step size; 1e-2 in the paper from random weights.")
    end: Positive = Field(default=1e-5, description="Step size at the end of the decay.")
    peak: Positive = Field(default=1e-3, description="Step size at the start of every cycle.")
    eps: Positive = Field(default=1e-5, description="ε of the mass.")


ScheduleConfig = Annotated[ParallelSchedule | LongSchedule, Field(discriminator="kind")]


class OptimizerConfig(Section):
    """For the methods adam, laplace and deep-ensemble."""

    steps: Count = Field(default=2000, description="Steps of every member.")
    learning_rate: Positive = Field(default=1e-3, description="At the start; 1e-2 in the paper from random weights.")
    final_learning_rate: Positive = Field(default=1e-5, description="At the end of the exponential decay.")
    members: Count = Field(default=8, le=MOST_CHAINS, description="Of a deep ensemble.")


class LaplaceConfig(Section):
    """For the method laplace."""

    samples: int = Field(default=30, ge=2, le=MOST_CHAINS, description="Draws from the posterior of the last layer.")


class FinetuneConfig(Section):
    """Everything that defines a fine-tuning."""

    data: DataConfig
    model: str = Field(
        default="nequip-md17-small", description="Name of a known model, or path of a .safetensors file."
    )
    output: str = Field(default="finetuned", description="Directory of the results.")
    method: Method = Field(
        default="sghmc",
        description="sghmc: samples of the posterior. Baselines: scratch (the same from random weights, "
        "prior N(0, 1)), adam (one optimised model from the pretrained weights), laplace (the same with a normal "
        "posterior of its last layer), deep-ensemble (optimised from random weights).",
    )
    targets: Literal["forces", "energy+forces", "energy+forces+stress"] = Field(
        default="energy+forces", description="Labels to learn from."
    )
    prior: PriorConfig = PriorConfig()
    schedule: ScheduleConfig = ParallelSchedule()
    optimizer: OptimizerConfig = OptimizerConfig()
    laplace: LaplaceConfig = LaplaceConfig()
    batch_size: Count = Field(default=5, description="Labels of a step; 30 in the paper's long chains.")
    friction: float = Field(default=0.1, gt=0.0, le=1.0, description="α of the sampler; 1 - β1 of the optimisers.")
    energy_sigma: str = Field(
        default="0.05 kcal/mol", description="Energy σ of the likelihood: total, or with /atom per atom."
    )
    stress_sigma_kcal_mol_a3: Positive = Field(default=0.1 / 16.0, description="Stress σ of the likelihood.")
    large_error_kcal_mol_a: Positive = Field(
        default=1.0, description="Force errors above it are those that σ should point to (AUC-ROC)."
    )
    evaluation_batch: Count = Field(default=32, description="Frames predicted at once.")
    checkpoint_steps: Count = Field(
        default=500,
        description="Steps between checkpoints, at most; no fewer than those between two noise levels, up to 50.",
    )
    seed: Seed = 0

    @field_validator("schedule", mode="before")
    @classmethod
    def _parallel_unless_said(cls, value: Any) -> Any:
        return {"kind": "parallel"} | value if isinstance(value, dict) else value

    @field_validator("energy_sigma")
    @classmethod
    def _quantity(cls, value: str) -> str:
        try:
            units.parse_energy(value, n_atoms=1, key="energy_sigma")
        except ConfigError as error:
            raise ValueError(f"allowed: {error.allowed}") from error
        return value

    @property
    def energy_sigma_ev(self) -> EnergySigma:
        """Energy σ of the likelihood."""
        one, two = (units.parse_energy(self.energy_sigma, n_atoms=n, key="energy_sigma") for n in (1, 2))
        return one if one == two else PerAtom(one)

    @property
    def learns_stress(self) -> bool:
        """True if stress is among the labels to learn from."""
        return self.targets == "energy+forces+stress"

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
    def parallel(self) -> ParallelSchedule | None:
        """Schedule of a sampler's parallel chains, whose noise levels are adjusted while they are cold; else None."""
        return self.schedule if isinstance(self.schedule, ParallelSchedule) and not self.optimises else None

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
    return parse(settings.read_yaml(path))


def commented(config: FinetuneConfig) -> str:
    """The same as `dump`, each key under a comment that says what it means."""
    lines = ["# Fine-tuning on labelled structures. Unknown keys are refused."]
    return "\n".join(lines + _entries(config, 0)) + "\n"


def _entries(section: BaseModel, indent: int) -> list[str]:
    lines, pad = [], "  " * indent
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            about = (type(value).__doc__ or "").splitlines()[0]
            lines += ["", f"{pad}# {about}", f"{pad}{name}:", *_entries(value, indent + 1)]
            continue
        lines += [f"{pad}# {field.description}"] if field.description else []
        lines.append(f"{pad}{name}: {settings.dump_value(value)}")
    return lines
