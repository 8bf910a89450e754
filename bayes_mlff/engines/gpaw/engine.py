"""Periodic density functional theory with GPAW (Mortensen et al. 2024, JCP 160, 092503) in a separate process."""

import json
import time
from pathlib import Path
from typing import Final

import numpy as np
from ase.data import chemical_symbols
from ase.stress import voigt_6_to_full_3x3_stress

from bayes_mlff.core.errors import ConfigError, DataError, EngineFailedError
from bayes_mlff.core.units import GPA
from bayes_mlff.data.labels import check_label
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.charge_spin import initial_moments
from bayes_mlff.engines.engine import EngineBase, EngineResult, hash_settings, read_state
from bayes_mlff.engines.gpaw.plane_waves import energy_correction
from bayes_mlff.engines.gpaw.settings import GpawSettings, gpaw_arguments, mpi_of, worker_settings
from bayes_mlff.engines.moments import check_count, moments_of_elements
from bayes_mlff.engines.worker.engine import WorkerEngine

PROBE: Final = Path(__file__).with_name("child.py")


class GpawEngine(EngineBase):
    """An `Engine` that runs GPAW in a separate process; GPAW is never imported here.

    The plane-wave basis set depends on the cell, so that at a low cutoff the stress has an error (Pulay stress) that,
    times the volume, hardly depends on the positions of the atoms and the size of the cell (Francis and Payne 1990, J.
    Phys. Condens. Matter 2, 4395). `stress: pulay-corrected` calculates this tensor for the first structure, as the
    difference to a high cutoff, and corrects every stress with it; `pulay_virial_ev` gives it from an earlier run. The
    full tensor is used and not only its trace, since it belongs to the cell and the k-points, which do not rotate with
    the atoms; with a k-point off the axes its other components are as constant as its trace. The energy, which jumps
    with the number of plane waves when the cell changes, is corrected with the same tensor, see `plane_waves`.
    """

    def __init__(self, settings: GpawSettings, directory: Path | None = None, *, base: Path | None = None):
        """Find the interpreter that has GPAW.

        Args:
          settings: settings of the level of theory and of the process.
          directory: run directory; as long as it does not exist, the engine works in a temporary folder.
          base: folder of the configuration; not used, since no setting names a file in it.

        Raises:
          EngineSetupError: if the interpreter is missing, or cannot run several MPI processes.
        """
        del base
        self._settings = settings
        self._mpi = mpi_of(settings)
        self._worker = WorkerEngine(worker_settings(settings), directory, probe=PROBE, mpi=self._mpi)
        self._numbers: np.ndarray | None = None  # atomic numbers for which the initial moments were made
        self._virial = _known_virial(settings)  # [3, 3] eV, correction of stress times volume; None if not yet known

    @property
    def settings_hash(self) -> str:
        """See `Engine.settings_hash`."""
        s = self._settings
        level = s.model_dump(mode="json", include={"magmoms", "magnetic_order"})
        if s.stress == "pulay-corrected":
            level |= {"pulay_cutoff_ev": s.pulay_cutoff_ev, "energy": "smooth number of plane waves", "volume": "V0/V"}
            if s.pulay_virial_ev is not None:
                level["pulay_virial_ev"] = s.pulay_virial_ev
        return hash_settings("gpaw", self._worker.settings_hash, level)

    @property
    def description(self) -> str:
        """See `Engine.description`."""
        s = self._settings
        hubbard = "".join(f"+U({element} {u.orbital} {u.u_ev:g} eV)" for element, u in sorted(s.hubbard.items()))
        grid = "x".join(map(str, s.kpts)) if isinstance(s.kpts[0], int) else f"{len(s.kpts)} given"
        order = "" if s.magmoms is None else f", spin-polarised ({s.magnetic_order} start)"
        stress = "" if s.stress == "none" else f", {s.stress} stress"
        if s.stress == "pulay-corrected":
            how = "first structure also" if s.pulay_virial_ev is None else "given, found"
            stress += f" ({how} at {s.pulay_cutoff_ev:g} eV)"
        processes = "" if self._mpi is None else f", {self._mpi.launcher[-1]} processes"
        return (
            f"GPAW {s.xc}{hubbard}, plane waves {s.cutoff_ev:g} eV, k-points {grid}, "
            f"Fermi-Dirac {s.smearing_ev:g} eV, {s.convergence} convergence{order}{stress}{processes}"
        )

    def check(self, structure: Structure) -> None:
        """See `Engine.check`: installation, functional, PAW data sets, magnetic moments, boundary conditions."""
        if self._settings.stress != "none" and not structure.is_periodic:
            raise ConfigError("engine.stress", self._settings.stress, "'none' for a structure that is not periodic")
        if not structure.cell.any(axis=1).all():
            raise ConfigError("structure", structure.cell.tolist(), "three cell vectors: plane waves need a box")
        missing = sorted(set(self._settings.hubbard) - set(_symbols(structure)))
        if missing:
            raise ConfigError("engine.hubbard", missing[0], f"elements of the structure: {_symbols(structure)}")
        self._set_moments(structure)
        self._worker.check(structure)

    def assumptions(self, structure: Structure) -> tuple[str, ...]:
        """See `Engine.assumptions`."""
        self._set_moments(structure)
        return self._worker.assumptions(structure)

    def label(self, structure: Structure) -> EngineResult:
        """See `Engine.label`; the energy is the free energy of the smeared electrons."""
        start = time.perf_counter()
        self._set_moments(structure)
        s = self._settings
        corrects = s.stress == "pulay-corrected" and structure.is_periodic
        reference = self._reference_stress(structure) if corrects and self._virial is None else None
        result = self._worker.label(structure)
        if not corrects:
            return result
        label = result.label
        if label.stress is None or label.stress.shape != (3, 3):
            raise EngineFailedError(f"{self.description}: unusable result: no stress of 3 x 3 components")
        remarks, volume = (), abs(float(np.linalg.det(structure.cell)))
        if self._virial is None:
            assert reference is not None  # it was calculated above in this case
            missing = reference - label.stress
            self._virial = missing * volume
            remarks = (
                f"Pulay correction of {np.trace(missing) / 3.0 / GPA:.2f} GPa found, the difference to "
                f"{s.pulay_cutoff_ev:g} eV (xx yy zz yz xz xy): {_voigt(missing / GPA)}; "
                f"as engine.pulay_virial_ev: {_voigt(self._virial)}",
            )
        energy = energy_correction(structure.cell, gpaw_arguments(s)["kpts"], s.cutoff_ev, self._virial)
        remarks = (
            *remarks,
            f"stress before Pulay correction, GPa: {_voigt(label.stress / GPA)}",
            f"energy corrected by {energy:.4f} eV for the number of plane waves",
        )
        return result._replace(
            label=label._replace(energy=label.energy + energy, stress=label.stress + self._virial / volume),
            seconds=time.perf_counter() - start,
            diagnostics=(*result.diagnostics, *remarks),
        )

    def save_state(self) -> bytes | None:
        """Save the magnetic moments of the last label and the stress correction; None if there is neither."""
        worker = self._worker.save_state()
        if worker is None and self._virial is None:
            return None
        return json.dumps(
            {
                "settings_hash": self.settings_hash,
                "worker": None if worker is None else worker.decode(),
                "pulay_virial": None if self._virial is None else self._virial.tolist(),
            }
        ).encode()

    def restore_state(self, state: bytes | None) -> None:
        """Start with a new calculator and the saved moments and stress correction.

        Raises:
          DataError: if the state belongs to another engine or level of theory.
        """
        if state is None:
            self._virial = _known_virial(self._settings)
            self._worker.restore_state(None)
            return
        saved = read_state(state, {"settings_hash", "worker", "pulay_virial"})
        if saved["settings_hash"] != self.settings_hash:
            raise DataError("engine state: saved at another level of theory or by another version of GPAW")
        self._worker.restore_state(None if saved["worker"] is None else saved["worker"].encode())
        self._virial = None if saved["pulay_virial"] is None else np.array(saved["pulay_virial"], np.float64)

    def close(self) -> None:
        """End the process that runs GPAW."""
        self._worker.close()

    def _set_moments(self, structure: Structure) -> None:
        """Set the initial moments from the first structure; they stay with the atoms when these move."""
        s, key = self._settings, "engine.magmoms"
        if not isinstance(s.magmoms, dict):
            check_count(s.magmoms, structure, key)
            self._worker.set_initial_moments(initial_moments(s.magmoms, structure, key))
        elif self._numbers is None or not np.array_equal(self._numbers, structure.numbers):
            moments = moments_of_elements(s.magmoms, s.magnetic_order, structure)
            self._worker.set_initial_moments(initial_moments(moments, structure, key))
            self._numbers = structure.numbers.copy()

    def _reference_stress(self, structure: Structure) -> np.ndarray:
        """Stress [3, 3] at the high cutoff, eV/Å³, from a separate calculator."""
        mode = {"name": "pw", "ecut": self._settings.pulay_cutoff_ev}
        label = self._worker.once(structure, {"mode": mode, "txt": "gpaw-pulay.txt"})
        check_label(label, len(structure.numbers))
        assert label.stress is not None  # it was requested, and the structure is periodic
        return label.stress


def _known_virial(settings: GpawSettings) -> np.ndarray | None:
    """The configured correction as a tensor [3, 3], eV; None if it is not configured."""
    if settings.pulay_virial_ev is None:
        return None
    return voigt_6_to_full_3x3_stress(np.array(settings.pulay_virial_ev, np.float64))


def _symbols(structure: Structure) -> list[str]:
    return sorted({chemical_symbols[int(number)] for number in structure.numbers})


def _voigt(tensor: np.ndarray) -> str:
    return " ".join(f"{x:.2f}" for x in tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]])
