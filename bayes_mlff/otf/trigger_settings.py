"""Settings of the triggers that a run has beside the one on the error of the total energy."""

import re
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.settings import Energy, Positive, Section
from bayes_mlff.data.readings import ENERGY, SHOWN

MOST: Final = 20
"""Largest number of triggers of a run."""


class CalibrationConfig(Section):
    """Gamma prior of the precision (1/variance) of errors divided by their predicted σ, which every label updates."""

    a: Positive = Field(
        default=3.0, description="Shape of the Gamma prior; the paper takes 3 with NequIP and 1.5 with MACE."
    )
    b: Positive = Field(
        default=10.0,
        description="Rate (inverse scale) of the Gamma prior; 10 in the paper. For energies with posterior laplace, "
        "whose σ is three times as wide, a ninth of it is taken.",
    )
    decay: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="Factor by which the weight of all earlier errors is multiplied at each label; 1 keeps all of "
        "them.",
    )


def _is_force(value: str) -> str:
    try:
        units.parse_force(value)
    except ConfigError as error:
        raise ValueError(error.allowed) from error
    return value


def _is_per_atom(value: str) -> str:
    if not value.strip().lower().endswith("/atom"):
        raise ValueError("an energy per atom, such as '1 meV/atom'")
    return value


Force = Annotated[str, AfterValidator(_is_force)]
"""Positive, with its unit, such as "3 kcal/mol/Å"; see `units.parse_force`."""

PerAtom = Annotated[Energy, AfterValidator(_is_per_atom)]


ThresholdTemperature = Annotated[
    Positive | None,
    Field(
        description="Temperature for which the threshold is stated, K: in each step it is multiplied by the square "
        "root of the target temperature of the thermostat over this one; null means that it is always the same.",
    ),
]


def stated(threshold: str, temperature_k: float | None) -> str:
    """A threshold in words, with the temperature for which it is stated."""
    return threshold if temperature_k is None else f"{threshold} at {temperature_k:g} K, growing as √T"


def _some(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ValueError("at least one; a region without atoms is empty")
    return value


Index = Annotated[int, Field(ge=0, lt=2**31)]
"""Of an atom in the structure's file, counted from 0."""


class WithinSettings(Section):
    """Atoms near to some, which change as they move."""

    of: Annotated[tuple[Index, ...], AfterValidator(_some)] = Field(
        description="Indices of the atoms in the middle, counted from 0."
    )
    radius_angstrom: Positive = Field(
        le=20.0,
        description="Distance up to which atoms belong to the region, Å; images in periodic directions count.",
    )


class _Trigger(Section):
    confidence: float | None = Field(
        default=None,
        gt=0.5,
        lt=1.0,
        description="Probability with which the error must be within the threshold; null means that of the run.",
    )
    threshold_temperature_k: ThresholdTemperature = None
    calibration: CalibrationConfig | None = Field(
        default=None, description="Prior of the calibration of this trigger; null means that of the run."
    )


class EnergyPerAtomSettings(_Trigger):
    """A trigger on the error of the total energy divided by the number of atoms."""

    unit: ClassVar[str] = "eV/atom"

    kind: Literal["energy_per_atom"] = Field(
        default="energy_per_atom", description="This kind of trigger; the other is force."
    )
    name: str = Field(default="energy_per_atom", description="Name of the trigger in files and messages.")
    threshold: PerAtom = Field(description="Largest error per atom that is accepted without a label.")

    @property
    def shown_unit(self) -> tuple[str, float]:
        """Unit that users see, and what 1 eV/atom is in it."""
        return SHOWN["eV/atom"]

    def threshold_of(self, n_atoms: int) -> float:
        """Threshold, eV/atom."""
        return units.parse_energy(self.threshold, n_atoms=n_atoms, key="threshold") / n_atoms


class ForceSettings(_Trigger):
    """A trigger on the error of the force on an atom, the norm of a vector."""

    unit: ClassVar[str] = "eV/Å"

    kind: Literal["force"] = Field(default="force", description="This kind of trigger; the other is energy_per_atom.")
    name: str = Field(default="force", description="Name of the trigger in files and messages.")
    threshold: Force = Field(
        description="Largest error of the force on an atom that is accepted without a label, with its unit."
    )
    elements: Annotated[tuple[str, ...], AfterValidator(_some)] | None = Field(
        default=None, description="Only atoms of these elements are watched; null means of all."
    )
    indices: Annotated[tuple[Index, ...], AfterValidator(_some)] | None = Field(
        default=None, description="Only these atoms are watched, by index in the file, from 0."
    )
    labels: Annotated[tuple[str, ...], AfterValidator(_some)] | None = Field(
        default=None, description="Only atoms that the structure's file gives one of these names."
    )
    within: WithinSettings | None = Field(
        default=None, description="Only atoms near to some are watched, wherever they move."
    )

    @model_validator(mode="after")
    def _one_region(self) -> "ForceSettings":
        given = [key for key in ("elements", "indices", "labels", "within") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"one of elements, indices, labels and within; got {' and '.join(given)}")
        return self

    @property
    def shown_unit(self) -> tuple[str, float]:
        """Unit that users see, that of the threshold, and what 1 eV/Å is in it."""
        return units.force_unit(self.threshold, key="threshold")

    def threshold_of(self, n_atoms: int) -> float:
        """Threshold, eV/Å."""
        del n_atoms
        return units.parse_force(self.threshold, key="threshold")


TriggerSettings = Annotated[ForceSettings | EnergyPerAtomSettings, Field(discriminator="kind")]


_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")


def _names(triggers: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse names that files cannot hold, and names that are there twice."""
    seen = {ENERGY}
    for i, each in enumerate(triggers):
        name, key = each.name, f"triggers.{i}.name"
        if not _NAME.match(name):
            raise ConfigError(key, name, "up to 40 lower-case letters, digits and underscores, beginning with a letter")
        if name in seen:
            taken = "the trigger on the total energy has it" if name == ENERGY else "another trigger has it"
            raise ConfigError(key, name, f"a name of its own ({taken})")
        seen.add(name)
    return triggers


Triggers = Annotated[tuple[TriggerSettings, ...], Field(max_length=MOST), AfterValidator(_names)]
"""Triggers with names that differ."""
