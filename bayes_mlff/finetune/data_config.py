"""Which labelled files a fine-tuning reads: their frames, keys and units, and what is refused of them."""

from typing import Literal

import numpy as np
from ase.data import atomic_numbers
from pydantic import Field, field_validator, model_validator

from bayes_mlff.core.settings import Count, Section, Seed
from bayes_mlff.data.label_settings import LabelFileSettings


class _Sets(Section):
    """Files, and which of their frames are used."""

    train: str = Field(description="Path of the file of labelled structures to learn from.")
    validation: str | None = Field(
        default=None,
        description="Path of labelled structures that scale the predicted σ and, for the optimisers, choose the best "
        "step; null means none, or validation_frames of the training file.",
    )
    test: str | None = Field(
        default=None,
        description="Path of labelled structures that are predicted and compared only; null means none, or test_frames "
        "of the training file.",
    )
    frames: Count | None = Field(
        default=None, description="Number of training frames to use; null means all that are not set aside."
    )
    validation_frames: Count | None = Field(
        default=None,
        description="Number of random frames of the training file that are set aside in the place of data.validation.",
    )
    test_frames: Count | None = Field(
        default=None,
        description="Number of random frames of the training file that are set aside in the place of data.test.",
    )
    draw_seed: Seed | None = Field(
        default=None,
        description="Seed with which the frames are drawn; null means that the training frames are the first of those "
        "not set aside, and that these are drawn with seed 0.",
    )
    frames_seed: Seed | None = Field(
        default=None,
        description="Seed with which the training frames are drawn, smaller sets being parts of larger ones; draw_seed "
        "then only sets frames aside. null means draw_seed.",
    )


class DataConfig(LabelFileSettings, _Sets):
    """Labelled sets: .npz of one molecule, or .xyz, .extxyz, .traj, .db, .json (.gz, .bz2, .xz) of any structures."""

    energy_per: Literal["structure", "atom"] | tuple[str, ...] = Field(
        default="structure",
        description="What the energies of the files are per: structure for total energies, atom, or a list of elements "
        "for one atom of these, as adsorption energies per adsorbed atom are. Total energies are learnt and predicted; "
        "metrics of energies are per what the files have.",
    )
    electronic_states: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="What to do about frames that state different charges or multiplicities: refuse or allow them.",
    )
    duplicates: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="What to do about a geometry that is present twice, in one set or in two: refuse or allow it.",
    )

    @field_validator("energy_per")
    @classmethod
    def _elements(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        unknown = [] if isinstance(value, str) else [name for name in value if not atomic_numbers.get(name)]
        if unknown or not value or (not isinstance(value, str) and len(set(value)) < len(value)):
            raise ValueError("must be structure, atom, or a list of symbols of elements, each once")
        return value

    def energy_units(self, numbers: np.ndarray) -> np.ndarray:
        """Factors from energies of the files to total energies, [f], for atomic numbers [f, n], 0 on padding."""
        if self.energy_per == "structure":
            return np.ones(len(numbers))
        if self.energy_per == "atom":
            return np.count_nonzero(numbers, axis=1).astype(np.float64)
        counted = [atomic_numbers[name] for name in self.energy_per]
        return np.count_nonzero(np.isin(numbers, counted), axis=1).astype(np.float64)

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        for name in ("validation", "test"):
            if getattr(self, name) is not None and getattr(self, f"{name}_frames") is not None:
                raise ValueError(f"{name} and {name}_frames are both given; allowed: one of them")
        return self
