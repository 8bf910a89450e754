"""The configuration of a run: one YAML file, validated before any calculation."""

from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field, model_validator

from bayes_mlff.core import settings, units
from bayes_mlff.core.changes import changes
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.settings import Count, Energy, Positive, Section, Seed
from bayes_mlff.core.template import commented
from bayes_mlff.data.structure_settings import StructureSettings
from bayes_mlff.engines.pyscf.engine import PyscfSettings
from bayes_mlff.engines.registry import EngineSettings
from bayes_mlff.ensemble.calibration import largest_critical_sigma
from bayes_mlff.md.settings import DynamicsConfig
from bayes_mlff.otf.start_settings import StartSettings
from bayes_mlff.otf.trigger_settings import CalibrationConfig, ThresholdTemperature, Triggers
from bayes_mlff.posterior.settings import (
    WARM,
    EnergyZero,
    HeadName,
    LaplaceSettings,
    LikelihoodSettings,
    ModelName,
    ParallelChains,
    PosteriorKind,
    PriorSettings,
)

_OF_CHAINS: Final = ("chains", "cold_steps", "ramp_steps", "initial_spread")
"""Keys of the sampler that one descent does not use."""


class SamplerConfig(ParallelChains):
    """SGHMC chains, which go on after every label from their last samples."""

    rounds: Count = Field(
        default=1,
        description="Largest number of times that the chains are run for sampler.steps after a label: they go on while "
        "their mean energy of that label is off by more than half of the threshold.",
    )

    @model_validator(mode="after")
    def _warm(self) -> "SamplerConfig":
        return self  # a descent needs no temperature: see `RunConfig`


class OtfLikelihood(LikelihoodSettings):
    """Standard deviations of the labels in the likelihood; that of the forces is predicted by the model."""

    energy_sigma_fraction: Positive = Field(
        default=0.1, description="Standard deviation of the total energy in the likelihood, as a fraction of threshold."
    )
    energy_zero: EnergyZero | None = Field(
        default=None,
        description="Zero of the energies: fitted draws for every sample the constant that its labels determine, so "
        "that its weights learn differences of energies; learnt leaves the constant to the weights, which slows the "
        "learning of forces down. null means fitted, or learnt where sampler.batch_size is 1.",
    )


class GuardsConfig(Section):
    """States that a run refuses to go on from, and what it does when it meets one."""

    on_failure: Literal["rollback", "stop"] = Field(
        default="rollback",
        description="What to do when a guard trips or a geometry gets no label: rollback returns to the last state "
        "that the reference confirmed and draws new velocities, stop ends the run.",
    )
    max_rollbacks: Count = Field(
        default=5, description="Number of rollbacks within guards.rollback_steps after which the run stops instead."
    )
    rollback_steps: Count = Field(
        default=1000, description="Number of MD steps in which rollbacks are counted for guards.max_rollbacks."
    )
    max_failures: Count = Field(
        default=3, description="Number of failures of the reference in a row at which the run stops."
    )
    sigma_ratio: float = Field(
        default=20.0,
        gt=1.0,
        description="Largest σ of each trigger that dynamics may reach, as a multiple of the critical σ (the largest "
        "of the present one, the first one and the median σ of the labels so far).",
    )
    min_distance_angstrom: float = Field(
        default=0.5, ge=0.0, description="Smallest distance between two atoms, Å; 0 switches the guard off."
    )
    temperature_ratio: float = Field(
        default=6.0,
        gt=1.0,
        description="Largest instantaneous temperature, as a multiple of the highest one scheduled so far (at least "
        "300 K); structures of few atoms, whose temperature fluctuates more, are allowed more.",
    )
    volume_ratio: float = Field(
        default=1.5,
        gt=1.0,
        description="Largest volume of the cell as a multiple of the first one; the smallest is the inverse of it.",
    )
    drift_kcal_mol_atom_ps: Positive = Field(
        default=0.5,
        description="Largest drift of the total energy in nve between two labels, kcal/mol per atom and ps; stretches "
        "of less than a picosecond may drift as much as one of a picosecond.",
    )
    label_sigmas: Positive = Field(
        default=20.0,
        description="Number of calibrated σ beyond which the error of a label is implausible, if it exceeds "
        "guards.label_thresholds too; such a label is not learnt unless it agrees with the label before it.",
    )
    label_thresholds: Positive = Field(
        default=20.0,
        description="Number of thresholds (for forces: per Å) beyond which the error of a label is implausible, if it "
        "exceeds guards.label_sigmas too.",
    )
    storm_labels: Count = Field(
        default=40, description="Number of reference calls within guards.storm_steps above which the run stops."
    )
    storm_steps: Count = Field(
        default=100, description="Number of MD steps in which reference calls are counted for guards.storm_labels."
    )


class AuditsConfig(Section):
    """Labels at random times, which alone show without bias how often the model exceeds the threshold."""

    interval_ps: float = Field(
        default=1.0,
        ge=0.0,
        allow_inf_nan=False,
        description="Mean time between two labels at random times, ps; 0 switches them off.",
    )
    false_alarm: float = Field(
        default=0.01,
        gt=0.0,
        le=0.5,
        description="Probability, over a whole run, that the audits call a correct calibration overconfident.",
    )


class RunConfig(Section):
    """Everything that defines a run."""

    renamed: ClassVar[dict[str, str]] = {
        "sampler.prior_scale": "prior.scale",
        "sampler.energy_sigma_fraction": "likelihood.energy_sigma_fraction",
        "sampler.stress_sigma_kcal_mol_a3": "likelihood.stress_sigma_kcal_mol_a3",
    }
    respelt: ClassVar[dict[str, dict[str, str]]] = {
        "dynamics.ensemble": {
            "langevin": "nvt, with dynamics.thermostat: langevin",
            "bussi": "nvt, with dynamics.thermostat: bussi",
        }
    }

    structure: StructureSettings = Field(
        description="Starting structure: a shipped one such as 'ethanol', the path of a file that ASE reads, or a "
        "section {file: PATH, format: NAME, index: FRAME, ...}."
    )
    model: ModelName = "nequip-md17-small"
    head: HeadName = None
    start: StartSettings | None = Field(
        default=None,
        description="Labels and a trained ensemble that exist already, to start from: {labels: FILE} or {ensemble: "
        "DIRECTORY OF A RUN}, from which the run goes on under its own conditions. null means from the model alone.",
    )
    threshold: Energy = Field(
        default="0.5 kcal/mol",
        description="Largest error of the total energy that is accepted without a label, with its unit; /atom behind "
        "the unit means per atom. Limits of forces are among the triggers.",
    )
    confidence: float = Field(
        default=0.95,
        gt=0.5,
        lt=1.0,
        description="Probability with which the error must be within the threshold; a label is asked for where it is "
        "lower.",
    )
    threshold_temperature_k: ThresholdTemperature = None
    triggers: Triggers = Field(
        default=(),
        description="Further reasons for a label, any of which suffices: a list of sections such as {kind: force, "
        "name: hydroxyl, threshold: 3 kcal/mol/Å, within: {of: [3], radius_angstrom: 1.5}} or {kind: energy_per_atom, "
        "threshold: 1 meV/atom}; a force is of all atoms or of those in elements, indices, labels or within.",
    )
    max_labels: Count = Field(
        default=500, description="Number of reference calculations at which the run stops; it can be resumed with more."
    )
    min_steps_between_labels: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="Number of MD steps after a label in which uncertainty asks for no other, since successive "
        "geometries are similar; the stated confidence holds only with 0.",
    )
    validation_frames: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="Number of random frames of the trajectory that the reference labels at the end of the run.",
    )
    seed: Seed = Field(default=0, description="Seed of all random numbers of the run.")
    calibration: CalibrationConfig = Field(
        default=CalibrationConfig(), description="Prior of the calibration of predicted uncertainties."
    )
    prior: PriorSettings = Field(default=PriorSettings(), description="Prior of the weights.")
    likelihood: OtfLikelihood = Field(default=OtfLikelihood(), description="Standard deviations of the labels.")
    posterior: PosteriorKind = Field(
        default="chains",
        description="Representation of the posterior of the weights: chains are independent samples by SGHMC, each of "
        "which costs as much as a model; laplace descends to one optimum and samples a normal distribution around it, "
        "evaluated to first order, for the price of two to four models.",
    )
    laplace: LaplaceSettings = Field(
        default=LaplaceSettings(), description="Samples around the optimum, with posterior: laplace."
    )
    sampler: SamplerConfig = Field(
        default=SamplerConfig(),
        description="SGHMC chains, which sample the posterior, or the one descent of posterior: laplace.",
    )
    dynamics: DynamicsConfig = Field(
        default=DynamicsConfig(), description="Molecular dynamics: ensemble, conditions, time step and what is stored."
    )
    guards: GuardsConfig = Field(default=GuardsConfig(), description="States that the run refuses to go on from.")
    audits: AuditsConfig = Field(default=AuditsConfig(), description="Labels at random times.")
    engine: EngineSettings = Field(
        default=PyscfSettings(),
        description="Reference method: pyscf, gpaw, chgnet, or ase or worker with calculator: module:Class.",
    )

    @model_validator(mode="after")
    def _stress_for_npt(self) -> "RunConfig":
        if self.dynamics.ensemble == "npt" and not self.engine_gives_stress:
            raise ConfigError(
                "dynamics.ensemble",
                "npt",
                "an ensemble of constant cell, or an engine that gives the stress (ase with engine.stress: true)",
            )
        return self

    @model_validator(mode="after")
    def _chains_become_warm(self) -> "RunConfig":
        if self.posterior == "chains" and self.sampler.samples_nothing:
            raise ConfigError("sampler.steps", self.sampler.steps, f"{WARM}; or posterior: laplace")
        return self

    @model_validator(mode="after")
    def _temperature_of_thresholds(self) -> "RunConfig":
        for before, stated in (("", self), *((f"triggers.{i}.", trigger) for i, trigger in enumerate(self.triggers))):
            key, value = f"{before}threshold_temperature_k", stated.threshold_temperature_k
            if value is not None and self.dynamics.ensemble == "nve":
                raise ConfigError(key, value, "null in nve, which has no thermostat and no target temperature")
            if value is not None and self.lowest_temperature_k == 0.0:
                raise ConfigError(key, value, "null at dynamics.temperature_k 0, where the threshold would be 0")
        return self

    @model_validator(mode="after")
    def _labels_must_become_unnecessary(self) -> "RunConfig":
        prior, fraction = self.calibration, self.likelihood.energy_sigma_fraction
        largest = largest_critical_sigma(prior.a, prior.b, prior.decay, confidence=self.confidence)
        largest *= self.lowest_growth(self.threshold_temperature_k)
        if fraction >= largest:
            raise ConfigError(
                "likelihood.energy_sigma_fraction",
                fraction,
                f"less than {largest:.3g}: σ is never below this part of the threshold, and calibration.decay "
                f"{prior.decay:g} lets no σ above that pass without a label, however small the errors are",
            )
        return self

    @property
    def chains(self) -> int:
        """Sets of weights that are advanced after a label."""
        return self.sampler.chains if self.posterior == "chains" else 1

    @property
    def side_by_side(self) -> int:
        """Devices that can work on an update together: one for each chain, or for each label of a minibatch."""
        return self.sampler.chains if self.posterior == "chains" else 2 * ((self.sampler.batch + 1) // 2)

    @property
    def unused(self) -> tuple[str, ...]:
        """Keys without effect whose values are not the default ones."""
        if self.posterior == "chains":
            idle = tuple(f"laplace.{change.key}" for change in changes(LaplaceSettings(), self.laplace))
        else:
            changed = (change.key for change in changes(SamplerConfig(), self.sampler))
            idle = tuple(f"sampler.{key}" for key in changed if key in _OF_CHAINS)
        return (*self.dynamics.unused, *idle)

    @property
    def lowest_temperature_k(self) -> float:
        """Lowest target temperature of the thermostat, K."""
        return float(self.dynamics.conditions().temperature_k.min())

    def lowest_growth(self, reference_k: float | None) -> float:
        """Smallest factor of a threshold that is stated for a temperature, K, during the run; see `schedule.growth`."""
        return 1.0 if reference_k is None else float(np.sqrt(self.lowest_temperature_k / reference_k))

    @property
    def engine_gives_stress(self) -> bool:
        """True if the labels of periodic structures come with a stress."""
        return self.engine.gives_stress

    def energy_sigma_ev(self, n_atoms: int) -> float:
        """Constant σ of the total energy of a structure of n atoms in the likelihood, eV."""
        return self.likelihood.energy_sigma_fraction * self.threshold_ev(n_atoms)

    def threshold_ev(self, n_atoms: int) -> float:
        """Threshold of the total energy of a structure of n atoms, eV."""
        return units.parse_energy(self.threshold, n_atoms=n_atoms, key="threshold")

    @property
    def audit_steps(self) -> float:
        """Mean number of MD steps between two audits; 0 = no audits."""
        return self.audits.interval_ps * 1000.0 / self.dynamics.timestep_fs

    @property
    def n_steps(self) -> int:
        """Number of MD steps of the whole run."""
        return round(self.dynamics.duration_ps * 1000.0 / self.dynamics.timestep_fs)


def parse(raw: Any) -> RunConfig:
    """Validate a configuration read from YAML.

    Raises:
      ConfigError: for the first problem, naming the dotted key, the value and what is allowed.
    """
    return settings.validate(RunConfig, raw)


def load(path: Path) -> RunConfig:
    """Read and validate a YAML file.

    Raises:
      ConfigError: if the file is missing, not YAML, or invalid.
    """
    return settings.validate(RunConfig, settings.read_yaml(path), source=path)


def template() -> str:
    """YAML of all keys with comments; `structure`, the only key without a default, is set to ethanol."""
    config = RunConfig(structure=StructureSettings(file="ethanol"))
    return commented(config, "Configuration of an on-the-fly run. Unknown keys are refused.")
