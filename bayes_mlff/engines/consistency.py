"""Finite-difference check, before a run starts, that forces and stress of an engine are derivatives of its energy."""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import numpy as np

from bayes_mlff.core import units
from bayes_mlff.core.errors import EngineSetupError
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.engine import EngineResult

STEP: Final = 0.03
"""Displacement along the random direction, Å, root mean square of its components."""

STRAIN: Final = 0.01
"""Largest component of the random strain."""

RELATIVE: Final = 0.05
"""Allowed relative difference of energy change and work of the forces: anharmonicity, grids, convergence."""

NOISE_EV: Final = 1e-3
"""Error of energy differences of a converged calculation, eV; multiplied by the root of the number of atoms."""

FACTORS: Final = {
    -1.0: "the opposite sign",
    0.5: "a factor of two",
    2.0: "a factor of two",
    **{
        ratio: f"{other} instead of {ours}"
        for unit, other, ours in (
            (units.BOHR, "bohr", "Å"),
            (units.HARTREE, "hartree", "eV"),
            (units.RYDBERG, "rydberg", "eV"),
            (units.HARTREE / units.BOHR, "hartree/bohr", "eV/Å"),
            (units.KCAL_MOL, "kcal/mol", "eV"),
            (units.KJ_MOL, "kJ/mol", "eV"),
            (units.GPA, "GPa", "eV/Å³"),
        )
        for ratio in (unit, 1.0 / unit)
    },
}
"""Names of unit errors, by the ratio of energy difference to work that they cause."""


class Labels(Protocol):
    """Anything that labels structures; see `Engine`."""

    def label(self, structure: Structure) -> EngineResult:
        """See `Engine.label`."""
        ...


class _Difference(NamedTuple):
    """An energy difference between labels, and the same from integrated forces or stress."""

    found: float  # eV, from energies
    work: float  # eV, from the integrated derivative
    allowed: float  # eV

    @property
    def agrees(self) -> bool:
        return abs(self.found - self.work) <= self.allowed


def compare(engine: Labels, structure: Structure, label: Label, *, seed: int = 0) -> tuple[str, ...]:
    """Compare forces, and the stress if there is one, with energy differences; two calls of the engine for each.

    The labels on both sides of the structure also give derivatives. Their integral (Simpson's rule) is compared with
    the energy difference, and the curvature too, so that the test also works at a minimum, where all forces vanish.

    Args:
      engine: the reference method; it labels displaced structures.
      structure: the structure of `label`; fixed atoms are displaced, too, since labels contain their true forces.
      label: label of the structure.
      seed: seed of the random direction and strain.

    Returns:
      One sentence for each comparison.

    Raises:
      EngineSetupError: if they disagree, with the numbers and the error that their ratio suggests.
      EngineFailedError: if a displaced structure cannot be labelled.
    """
    rng, n = np.random.default_rng(seed), len(structure.numbers)
    direction = rng.normal(size=(n, 3))
    direction -= direction.mean(axis=0) if n > 1 else 0.0
    direction /= np.sqrt(np.mean(direction**2))

    def moved(x: float) -> Structure:
        return structure._replace(positions=structure.positions + x * direction)

    def power(_: float, found: Label) -> float:
        return -float(np.sum(found.forces * direction))

    lines = [_compare("forces", engine, moved, power, label, STEP, n)]
    if label.stress is None:
        return tuple(lines)
    strain = rng.normal(size=(3, 3))
    strain = (strain + strain.T) / np.abs(strain + strain.T).max()

    def strained(x: float) -> Structure:
        deform = np.eye(3) + x * strain
        return structure._replace(positions=structure.positions @ deform, cell=structure.cell @ deform)

    def stretch(x: float, found: Label) -> float:
        assert found.stress is not None
        volume = abs(float(np.linalg.det(strained(x).cell)))
        return volume * float(np.sum(found.stress * (strain @ np.linalg.inv(np.eye(3) + x * strain))))

    return (*lines, _compare("stress", engine, strained, stretch, label, STRAIN, n))


def _compare(
    what: str,
    engine: Labels,
    at: Callable[[float], Structure],
    slope: Callable[[float, Label], float],
    here: Label,
    step: float,
    n: int,
) -> str:
    """Label both sides of a structure and compare energy differences with integrated derivatives; see `compare`."""
    up, down = engine.label(at(step)).label, engine.label(at(-step)).label
    left, middle, right = slope(-step, down), slope(0.0, here), slope(step, up)
    noise = NOISE_EV * np.sqrt(n)

    def difference(found: float, work: float) -> _Difference:
        return _Difference(found, work, noise + RELATIVE * max(abs(found), abs(work)))

    across = difference(up.energy - down.energy, step / 3.0 * (left + 4.0 * middle + right))
    curvature = difference(up.energy + down.energy - 2.0 * here.energy, step / 2.0 * (right - left))
    both = (across, curvature)
    for one in both:
        if not one.agrees:
            raise EngineSetupError(_complaint(what, max(both, key=lambda d: abs(d.work)), one))
    largest = max(both, key=lambda d: abs(d.work))
    said = f"{what}: along a random {'direction' if what == 'forces' else 'strain'} the energy changes by"
    if abs(largest.found) < 3.0 * noise and abs(largest.work) < 3.0 * noise:
        return f"{said} {largest.found:.2g} eV only, too little to be compared"
    return (
        f"{said} {largest.found:.5g} eV, their work is {largest.work:.5g} eV (allowed: {largest.allowed:.2g} eV apart)"
    )


def _complaint(what: str, clear: _Difference, wrong: _Difference) -> str:
    """Message with the numbers that disagree, and the unit error that they suggest."""
    worst = clear if not clear.agrees else wrong
    ratio = worst.found / worst.work if worst.work else np.inf
    close = [name for factor, name in FACTORS.items() if abs(ratio / factor - 1.0) < 0.03]
    hint = f": this looks like {close[0]}" if close else ""
    return (
        f"energy and {what} do not belong together: the energy changes by {worst.found:.5g} eV, but the {what} account "
        f"for {worst.work:.5g} eV (allowed: {worst.allowed:.2g} eV apart); ratio {ratio:.4g}{hint}; allowed: an energy "
        f"whose derivative {'they are' if what == 'forces' else 'it is'}, in eV, eV/Å and eV/Å³ with tension positive"
    )
