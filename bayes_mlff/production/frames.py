"""Files of a replica's trajectory, in extended XYZ or in NetCDF (convention of AMBER, version 1.0)."""

from pathlib import Path
from typing import Final

from bayes_mlff.data.structure import Structure
from bayes_mlff.runs.growing_files import GrowingFiles

EXTRA: Final = "bayes-mlff[netcdf]"


def files_of(path: Path, kind: str, structure: Structure) -> GrowingFiles:
    """Growing files in a folder.

    Raises:
      ConfigError: if the package for the format is not installed.
    """
    return GrowingFiles(path) if kind == "extxyz" else NetcdfFiles(path, structure)


class NetcdfFiles(GrowingFiles):
    """thermo.csv, and frames in NetCDF."""

    def __init__(self, path: Path, structure: Structure):
        super().__init__(path)
        raise NotImplementedError
