"""Which labelled files a fine-tuning reads: their frames, keys and units, and what is refused of them."""

from typing import Literal

from pydantic import Field, model_validator

from bayes_mlff.core.settings import Count, Section, Seed

PositionUnit = Literal["A", "bohr", "nm"]
EnergyUnit = Literal["eV", "meV", "kcal/mol", "kJ/mol", "hartree", "Ry"]
ForceUnit = Literal[
    "eV/A", "eV/bohr", "eV/nm", "meV/A", "meV/bohr", "meV/nm", "kcal/mol/A", "kcal/mol/bohr", "kcal/mol/nm",
    "kJ/mol/A", "kJ/mol/bohr", "kJ/mol/nm", "hartree/A", "hartree/bohr", "hartree/nm", "Ry/A", "Ry/bohr", "Ry/nm",
]  # fmt: skip
StressUnit = Literal["eV/A^3", "GPa", "kbar", "hartree/bohr^3"]


class DataConfig(Section):
    """Labelled sets: .npz of one molecule, or .xyz, .extxyz, .traj, .db, .json (.gz, .bz2, .xz) of any structures."""

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
    numbers_key: str = Field(default="z", description="Name of the array of atomic numbers in .npz files.")
    positions_key: str = Field(default="R", description="Name of the array of positions in .npz files.")
    energies_key: str = Field(default="E", description="Name of the array of energies in .npz files.")
    forces_key: str = Field(default="F", description="Name of the array of forces in .npz files.")
    xyz_energy_key: str | None = Field(
        default=None,
        description="Name of the energy in files other than .npz; null means REF_energy, or in files without "
        "REF_energy and REF_forces what ASE reads as a calculator's result, free_energy before energy.",
    )
    xyz_forces_key: str | None = Field(
        default=None,
        description="Name of the forces in files other than .npz; null means REF_forces, or forces as for the energy.",
    )
    xyz_stress_key: str | None = Field(
        default=None,
        description="Name of the stress in files other than .npz; null means REF_stress, or stress as for the energy.",
    )
    positions_unit: PositionUnit | None = Field(
        default=None,
        description="Unit of positions and cells; null means the one that the file states, and A (Å) where it states "
        "none.",
    )
    energy_unit: EnergyUnit | None = Field(
        default=None,
        description="Unit of the energies; null means the one that the file states, and eV where it states none.",
    )
    forces_unit: ForceUnit | None = Field(
        default=None,
        description="Unit of the forces; null means the one that the file states, of forces or of energy and "
        "positions, and eV/A where it states none.",
    )
    stress_unit: StressUnit | None = Field(
        default=None,
        description="Unit of the stress; null means the one that the file states, and eV/A^3 where it states none.",
    )
    stress_sign: Literal["tension", "compression"] = Field(
        default="tension",
        description="Which stress is positive in the files: tension as in ASE, or compression as in VASP's output.",
    )
    doubtful_units: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="What to do if another unit explains bond lengths, the forces against differences of energies, or "
        "the predictions of the pretrained model far better: refuse the labels, or allow them with a warning.",
    )
    electronic_states: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="What to do about frames that state different charges or multiplicities: refuse or allow them.",
    )
    duplicates: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="What to do about a geometry that is present twice, in one set or in two: refuse or allow it.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        for name in ("validation", "test"):
            if getattr(self, name) is not None and getattr(self, f"{name}_frames") is not None:
                raise ValueError(f"{name} and {name}_frames are both given; allowed: one of them")
        return self
