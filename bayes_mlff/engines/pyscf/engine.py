"""Kohn-Sham density functional theory of molecules with PySCF (Sun et al. 2020, JCP 153, 024109)."""

import importlib.metadata
import importlib.util
import io
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.core import units
from bayes_mlff.core.errors import DataError, EngineRetryError, EngineSetupError
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.engine import EngineBase, EngineResult, Settled, hash_settings, retry
from bayes_mlff.engines.pyscf.molecule import (
    EFFORT,
    PyscfSettings,
    build_molecule,
    check_elements,
    electrons_of,
    spin_guess,
)


class _Density(NamedTuple):
    """A converged density matrix and the geometry that it belongs to."""

    numbers: np.ndarray  # [n]
    positions: np.ndarray  # [n, 3] Å
    matrix: np.ndarray  # [a, a] or, unrestricted, [2, a, a], in atomic orbitals
    state: np.ndarray  # [2] charge and multiplicity


class PyscfEngine(EngineBase):
    """An `Engine` that runs PySCF inside this process.

    With one thread a label is bit-identical for the same structure, settings and previous density;
    `save_state` and `restore_state` pass that density to a resumed run.
    """

    def __init__(self, settings: PyscfSettings, directory: Path | None = None, *, base: Path | None = None):
        """Import PySCF.

        Args:
          settings: settings of the level of theory and of the effort.
          directory: run directory; nothing is written there.
          base: folder of the configuration; not used, since no setting names a file in it.

        Raises:
          EngineSetupError: if PySCF is not installed.
        """
        del directory, base
        try:
            self._pyscf: Any = importlib.import_module("pyscf")
            for name in ("dft", "gto", "lib"):
                importlib.import_module(f"pyscf.{name}")
        except ImportError as error:
            raise EngineSetupError(
                f"engine 'pyscf': cannot import PySCF ({error}); pip install 'bayes-mlff[pyscf]'"
            ) from error
        self._settings = settings
        self._previous: _Density | None = None

    @property
    def settings_hash(self) -> str:
        """See `Engine.settings_hash`."""
        settings = self._settings.model_dump(mode="json", exclude=EFFORT | {"name"})
        return hash_settings("pyscf", importlib.metadata.version("pyscf"), settings)

    @property
    def description(self) -> str:
        """See `Engine.description`."""
        s = self._settings
        fit = ", density fitting" if s.density_fit else ""
        dispersion = f"-{s.dispersion}" if s.dispersion else ""
        charge = "of the structure" if s.charge is None else s.charge
        spin = "of the structure" if s.spin is None else s.spin
        return f"PySCF {s.xc}{dispersion}/{s.basis}{fit}, grid {s.grid_level}, charge {charge}, spin {spin}"

    def assumptions(self, structure: Structure) -> tuple[str, ...]:
        """See `Engine.assumptions`."""
        start = "unrestricted, from the initial moments of the structure"
        return (electrons_of(self._settings, structure).line, *([start] if _moments(structure) is not None else []))

    def check(self, structure: Structure) -> None:
        """See `Engine.check`: boundary conditions, functional, dispersion, basis, core potential, charge and spin."""
        s = self._settings
        if structure.pbc.any():
            raise EngineSetupError("engine 'pyscf' treats molecules: pbc must be false in all directions")
        try:
            self._pyscf.dft.libxc.parse_xc(s.xc)
        except (KeyError, ValueError) as error:
            raise EngineSetupError(f"engine.xc: got {s.xc!r}; allowed: a functional that PySCF knows") from error
        if s.dispersion is not None and importlib.util.find_spec("pyscf.dispersion") is None:
            raise EngineSetupError(
                f"engine.dispersion: {s.dispersion!r} needs another package; pip install pyscf-dispersion"
            )
        check_elements(self._pyscf, s, structure)
        build_molecule(self._pyscf, self._settings, structure)

    def label(self, structure: Structure) -> EngineResult:
        """See `Engine.label`; there is no stress."""
        start = time.perf_counter()
        self.check(structure)
        with self._pyscf.lib.with_omp_threads(self._settings.threads):
            (label, density, note), reasons = retry(
                lambda number: self._attempt(structure, number),
                self._settings.max_attempts,
                description=self.description,
            )
        self._previous = density
        seconds = time.perf_counter() - start
        evaluated = structure._replace(numbers=density.numbers, positions=density.positions)
        settled = Settled(*(int(number) for number in density.state))
        return EngineResult(label, evaluated, True, seconds, len(reasons) + 1, (*reasons, note), settled)

    def save_state(self) -> bytes | None:
        """Save the previous density, its geometry and the settings' hash as an npz file."""
        if self._previous is None:
            return None
        buffer = io.BytesIO()
        np.savez(buffer, settings_hash=np.array(self.settings_hash), **self._previous._asdict())
        return buffer.getvalue()

    def restore_state(self, state: bytes | None) -> None:
        """Restore a saved density.

        Raises:
          DataError: if it was saved by an engine with other settings.
        """
        if state is None:
            self._previous = None
            return
        s = self._settings
        with np.load(io.BytesIO(state), allow_pickle=False) as arrays:
            if str(arrays["settings_hash"]) != self.settings_hash:
                raise DataError("engine state: saved at another level of theory or by another version of PySCF")
            given = {"state": np.array([s.charge or 0, 1 + (s.spin or 0)])}  # default for states of earlier versions
            self._previous = _Density(**given | {name: arrays[name] for name in _Density._fields if name in arrays})

    def close(self) -> None:
        """Forget the previous density."""
        self._previous = None

    def _mean_field(self, molecule: Any, *, unrestricted: bool) -> Any:
        """Set up the self-consistent field; nothing is written to disk."""
        s = self._settings
        field = self._pyscf.dft.UKS(molecule, xc=s.xc) if unrestricted else self._pyscf.dft.RKS(molecule, xc=s.xc)
        if s.density_fit:
            field = field.density_fit()
        field.grids.level, field.conv_tol, field.max_cycle = s.grid_level, s.conv_tol_hartree, s.max_cycle
        field.chkfile = None
        if s.dispersion is not None:
            field.disp = s.dispersion
        return field

    def _attempt(self, structure: Structure, number: int) -> tuple[Label, _Density, str]:
        """Energy and forces with the solver settings of one attempt; EngineRetryError if it does not converge."""
        molecule = build_molecule(self._pyscf, self._settings, structure)
        moments, electrons = _moments(structure), electrons_of(self._settings, structure)
        state = np.array([electrons.charge, electrons.multiplicity])
        field = self._mean_field(molecule, unrestricted=molecule.spin > 0 or moments is not None)
        guess = None if moments is None else spin_guess(molecule, field, moments)
        how = "fresh start"
        if number == 0 and self._settings.warm_start:
            previous = self._carried_over(molecule, structure, state)
            if previous is not None:
                guess, how = previous, "previous density"
        elif number == 1:
            field.damp, field.level_shift = 0.3, 0.3
            how = "fresh start, damping 0.3, level shift 0.3 Ha"
        elif number == 2:
            field, how = field.newton(), "fresh start, second order"
            field.max_cycle = self._settings.max_cycle
        cycles = _run(field, guess, how)
        try:
            gradient = field.nuc_grad_method().kernel()
        except np.linalg.LinAlgError as error:
            raise EngineRetryError(f"{how}: gradient failed: {error}") from error
        label = Label(float(field.e_tot) * units.HARTREE, -gradient * (units.HARTREE / units.BOHR))
        numbers = np.array([chemical_symbols.index(symbol) for symbol in molecule.elements], np.int64)
        # A plain array: PySCF's own array type also carries orbitals, which a restored density would lack.
        density = _Density(
            numbers, molecule.atom_coords() * units.BOHR, np.array(field.make_rdm1(), np.float64, subok=False), state
        )
        return label, density, f"{how}: converged in {cycles} cycles"

    def _carried_over(self, molecule: Any, structure: Structure, state: np.ndarray) -> np.ndarray | None:
        """The previous density in the orbitals of the new geometry; None if it has other atoms, charge or spin.

        With S the overlap, D' = S'^-1/2 S^1/2 D S^1/2 S'^-1/2 keeps the density idempotent and the number of
        electrons right (symmetric orthonormalisation, Löwdin 1950, J. Chem. Phys. 18, 365).
        """
        previous = self._previous
        if previous is None or not np.array_equal(previous.numbers, structure.numbers):
            return None
        if not np.array_equal(previous.state, state):
            return None
        before = build_molecule(
            self._pyscf, self._settings, structure._replace(positions=previous.positions)
        ).intor_symmetric("int1e_ovlp")
        transport = _power(molecule.intor_symmetric("int1e_ovlp"), -0.5) @ _power(before, 0.5)
        return transport @ previous.matrix @ transport.T


def _moments(structure: Structure) -> np.ndarray | None:
    """Initial moments [n], μB; None if there are none or all are zero."""
    moments = structure.electronic.moments
    return None if moments is None or not np.any(moments) else np.asarray(moments, np.float64)


def _run(field: Any, guess: np.ndarray | None, how: str) -> int:
    """Iterate to self-consistency and return the number of cycles.

    Raises:
      EngineRetryError: if it does not converge, with the number of cycles and the last energy change.
    """
    changes: list[float] = []
    field.callback = lambda env: changes.append(float(env["e_tot"] - env["last_hf_e"]))
    try:
        energy = field.kernel(dm0=guess)
    except (np.linalg.LinAlgError, FloatingPointError, RuntimeError) as error:
        raise EngineRetryError(f"{how}: {type(error).__name__} after {len(changes)} cycles: {error}") from error
    cycles = getattr(field, "cycles", 0) or len(changes)
    if not field.converged or not math.isfinite(energy):
        change = changes[-1] * units.HARTREE if changes else math.nan
        raise EngineRetryError(f"{how}: not converged after {cycles} cycles, last energy change {change:.2e} eV")
    return cycles


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """Power of a symmetric positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T
