"""Where in a labelled file the labels are, and in which units."""

from typing import Literal, NamedTuple

from pydantic import Field

from bayes_mlff.core.settings import Section

PositionUnit = Literal["A", "bohr", "nm"]
EnergyUnit = Literal["eV", "meV", "kcal/mol", "kJ/mol", "hartree", "Ry"]
ForceUnit = Literal[
    "eV/A", "eV/bohr", "eV/nm", "meV/A", "meV/bohr", "meV/nm", "kcal/mol/A", "kcal/mol/bohr", "kcal/mol/nm",
    "kJ/mol/A", "kJ/mol/bohr", "kJ/mol/nm", "hartree/A", "hartree/bohr", "hartree/nm", "Ry/A", "Ry/bohr", "Ry/nm",
]  # fmt: skip
StressUnit = Literal["eV/A^3", "GPa", "kbar", "hartree/bohr^3"]


class Wanted(NamedTuple):
    """Which labels a file must have, and how messages name what is allowed."""

    energy: bool = True  # in all frames; else in all or none
    forces: bool = True  # in all frames; else they are not read
    stress: bool = False  # in all frames
    section: str = "data"  # configuration key of the `LabelFileSettings`
    or_no_energy: str = ""  # what else is allowed where only some frames have energies
    or_no_stress: str = ""  # what else is allowed where a frame has no stress


class LabelFileSettings(Section):
    """Keys and units of labelled files, and whether units are doubted."""

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
