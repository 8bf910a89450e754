"""Which structure a run starts from; apart from its readers, so that a configuration is read without them."""

from pydantic import Field

from bayes_mlff.core.settings import Count, FileSection


class StructureSettings(FileSection):
    """Where the initial structure is, and what its file does not say."""

    file: str = Field(description="Path of a file that ASE reads, or the name of a built-in structure.")
    format: str | None = Field(
        default=None,
        description="ASE's name of the file format; null means that it is found out from the name and the content.",
    )
    index: int = Field(
        default=-1, description="Number of the frame to start from, counted from 0, or if negative from the end."
    )
    elements: tuple[str, ...] = Field(
        default=(),
        description="Chemical symbols of the atom types 1, 2, ... for formats that only number them (LAMMPS).",
    )
    charge: int | None = Field(
        default=None,
        ge=-1000,
        le=1000,
        description="Total charge of the structure, e; null means what the file states, or 0.",
    )
    multiplicity: Count | None = Field(
        default=None,
        description="Spin multiplicity 2S + 1 of the structure; null means what the file states, or what the reference "
        "assumes.",
    )
