"""Which structure a run starts from; apart from its readers, so that a configuration is read without them."""

from pydantic import Field

from bayes_mlff.core.settings import Count, Section


class StructureSettings(Section):
    """Where the initial structure is, and what its file does not say."""

    file: str = Field(description="Path of a file that ASE reads, or the name of a built-in structure.")
    format: str | None = Field(default=None, description="ASE's name of the file format; by default found out.")
    index: int = Field(default=-1, description="Frame to take, from 0; negative: counted from the end.")
    elements: tuple[str, ...] = Field(
        default=(), description="Elements of the atom types 1, 2, ... of formats that only number them (LAMMPS)."
    )
    charge: int | None = Field(default=None, ge=-1000, le=1000, description="Charge of the structure, e.")
    multiplicity: Count | None = Field(default=None, description="Spin multiplicity of the structure, 2S + 1.")
