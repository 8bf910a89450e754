"""Programs that can take a trained ensemble."""

import importlib
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import ase

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.interfaces.example import Answer, Example


class Program(NamedTuple):
    """A program, and where its part of this package is."""

    title: str
    module: str  # with `files` and `evaluate`
    command: str  # runs the example in its folder
    packages: tuple[str, ...]  # modules that the program needs here; its extra has the name of its row
    sigma: str  # which uncertainties it gets, a sentence

    @property
    def files(self) -> Callable[[Example], dict[str, str]]:
        """Makes the input files of an example."""
        return importlib.import_module(self.module).files

    @property
    def evaluate(self) -> Callable[[EnsembleCalculator, list[ase.Atoms]], list[Answer]]:
        """Evaluates structures through the program."""
        return importlib.import_module(self.module).evaluate


PROGRAMS: Final[Mapping[str, Program]] = {
    "ase": Program(
        "ASE",
        "bayes_mlff.interfaces.ase_files",
        "python run.py",
        (),
        "`atoms.calc.results` has σ of energy, forces and stress, and the predictions of every sample.",
    ),
    "ipi": Program(
        "i-PI",
        "bayes_mlff.interfaces.ipi_files",
        "sh run.sh",
        ("ipi",),
        "i-PI's extra string has σ of energy and forces in atomic units; `drive(..., committee=True)` adds the "
        "predictions of every sample for `ffcommittee`.",
    ),
    "lammps": Program(
        "LAMMPS",
        "bayes_mlff.interfaces.lammps_files",
        "python run.py",
        ("lammps",),
        "`f_ensemble[1]` is the σ of the energy (eV), `f_ensemble[2]` the largest of a force component (eV/Å), "
        "`f_ensemble[3]` the probability that the energy is off by more than the threshold (nan without one).",
    ),
    "openmm": Program(
        "OpenMM",
        "bayes_mlff.interfaces.openmm_force",
        "python run.py",
        ("openmm",),
        "`SigmaReporter` writes σ of the energy, the largest σ of a force component and the probability.",
    ),
}


def find(name: str) -> Program:
    """The program of a name.

    Raises:
      ConfigError: if there is none.
    """
    if name not in PROGRAMS:
        raise ConfigError("--to", name, f"one of {', '.join(PROGRAMS)} (.model files of mace-torch: --what model)")
    return PROGRAMS[name]
