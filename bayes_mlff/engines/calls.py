"""Calls of an ASE calculator, and locks on its folders; for this process and for a child process with Python 3.8+.

The child loads this file by its path, so it imports nothing of this package, and ASE only when it is needed.
"""

import fcntl
import importlib
import os
from typing import Any, Dict, List, Tuple  # noqa: UP035 (Python 3.8)

Names = Dict[str, Any]  # noqa: UP006 (Python 3.8)

LOCK = ".bayes-mlff.lock"


class FolderTakenError(Exception):
    """Another run uses the folder of a calculator."""


def inner(calculator: Any) -> List[Any]:  # noqa: UP006
    """Calculators that this calculator calls: those of ASE's mixers and corrections."""
    mixer = getattr(calculator, "mixer", None)
    found = list(getattr(mixer, "calcs", None) or [])
    found += [c for c in (getattr(calculator, name, None) for name in ("dft", "dftd3")) if hasattr(c, "get_property")]
    return found


def claim_folders(calculator: Any, own: str) -> List[Any]:  # noqa: UP006
    """Lock the folders outside `own` that a calculator uses, until the returned files are closed.

    Raises:
      FolderTakenError: if another run uses one of them.
    """
    held: List[Any] = []  # noqa: UP006
    try:
        for folder in sorted(_folders(calculator, own)):
            os.makedirs(folder, exist_ok=True)
            held.append(open(os.path.join(folder, LOCK), "a"))  # noqa: SIM115 (held for as long as the calculator is)
            fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        place = os.path.dirname(held[-1].name) if held else folder
        release(held)
        why = "another run works there" if isinstance(error, BlockingIOError) else str(error)
        raise FolderTakenError(
            f"engine.arguments: the calculator works in {place}: {why}; allowed: a folder of its own, or no directory "
            "and label, for it then works in the run directory"
        ) from error
    return held


def release(held: List[Any]) -> None:  # noqa: UP006
    """Release locked folders."""
    while held:
        held.pop().close()


def _folders(calculator: Any, own: str) -> Any:
    """Absolute paths, outside `own`, of the folders of a calculator and of its inner calculators."""
    found = set()
    folder = getattr(calculator, "directory", None)
    if isinstance(folder, (str, os.PathLike)):
        path = os.path.realpath(os.path.join(own, os.fspath(folder)))
        if not (path + os.sep).startswith(os.path.join(os.path.realpath(own), "")):
            found.add(path)
    for other in inner(calculator):
        found |= _folders(other, own)
    return found


def atoms_of(geometry: Names, told: Names) -> Any:
    """Make an `ase.Atoms` with charge and spin properties; without constraints, which would change the forces."""
    atoms = importlib.import_module("ase").Atoms(**geometry)
    if told.get("moments") is not None:
        atoms.set_initial_magnetic_moments(told["moments"])
    if told.get("charges") is not None:
        atoms.set_initial_charges(told["charges"])
    if told.get("tags") is not None:
        atoms.set_tags(told["tags"])
    atoms.info.update(told.get("info") or {})
    return atoms


def evaluate(calculator: Any, atoms: Any, with_stress: bool) -> Names:
    """Compute forces, stress (or None) and the energy whose derivative the forces are; one calculation gives all."""
    forces = calculator.get_property("forces", atoms)
    stress = calculator.get_property("stress", atoms) if with_stress else None
    energy, name = consistent_energy(calculator, atoms)
    return {"forces": forces, "stress": stress, "energy": energy, "energy_name": name}


def consistent_energy(calculator: Any, atoms: Any) -> Tuple[Any, str]:  # noqa: UP006
    """The energy whose derivative the forces are, and its name: the free energy if there is one, listed or not."""
    free = (getattr(calculator, "results", None) or {}).get("free_energy")
    if free is not None:
        return free, "free_energy"
    if "free_energy" in calculator.implemented_properties:
        return calculator.get_property("free_energy", atoms), "free_energy"
    energy, name = calculator.get_property("energy", atoms), "energy"
    mixer = getattr(calculator, "mixer", None)
    weights = list(getattr(mixer, "weights", None) or []) or [1.0] * len(inner(calculator))
    for weight, other in zip(weights, inner(calculator)):  # noqa: B905 (Python 3.8)
        value, kind = consistent_energy(other, atoms)
        if kind == "free_energy" and "energy" in other.implemented_properties:
            energy, name = energy + weight * (value - other.get_property("energy", atoms)), "free_energy"
    return energy, name
