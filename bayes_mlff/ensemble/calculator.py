"""ASE calculator of a fine-tuned ensemble: means, calibrated σ and the predictions of all samples."""

import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import ase
import jax
import jax.numpy as jnp
import numpy as np
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data import neighbors
from bayes_mlff.data import origin as origins
from bayes_mlff.data.neighbors import NeighborSpec, NeighborState
from bayes_mlff.data.stated import State, multiplicities, state_of
from bayes_mlff.data.structure import Structure, geometry
from bayes_mlff.ensemble import saved as ensembles
from bayes_mlff.ensemble.linear import linearised, unspread
from bayes_mlff.ensemble.predictive import Predictive, combine
from bayes_mlff.ensemble.saved import Ensemble
from bayes_mlff.models.energetics import Prediction
from bayes_mlff.posterior import energy_zero
from bayes_mlff.posterior.likelihood import of_structures

VOIGT = (np.array([0, 1, 2, 1, 0, 0]), np.array([0, 1, 2, 2, 2, 1]))
"""Rows and columns of the components xx yy zz yz xz xy."""

PROBABILITY = "probability_above_threshold"

SPREAD_OF_FORCES: Final = frozenset(("forces_sigma", "stress_sigma", "chain_forces", "chain_stress"))
"""Results that cost a model for each sample where samples lie around an optimum, and are calculated there only if they
are requested."""


class OutsideTrainingWarning(UserWarning):
    """The labels do not determine the atomic reference energies of a composition, so that its energy is unknown."""


class DirectForcesWarning(UserWarning):
    """The forces of the network are not the gradient of its energy."""


class EnsembleCalculator(Calculator):
    """Predictions, with uncertainties, for any structure of the fine-tuned elements; units eV, eV/Å, eV/Å³.

    Energies are on the scale of the reference. Besides `energy`, `free_energy` (the same), `forces` and (for three
    periodic directions) `stress`, `results` contains

    - `energy_sigma`, `forces_sigma` [n, 3] and `stress_sigma` [6]: standard deviations. `calibrated` says which of them
      are calibrated: by the errors found in a run (only energies), or by a validation set.
    - `energy_sigma_uncalibrated`: that of the ensemble itself, which the trigger of a run compares with its limit.
    - `probability_above_threshold`: that the absolute error of the energy is above `threshold`; for a run from the
      distribution that its trigger uses. Only if there is a threshold.
    - `chain_energy` [c], `chain_forces` [c, n, 3] and `chain_stress` [c, 6]: predictions of the c samples.

    Of an ensemble of posterior `laplace`, whose samples lie around one optimum, `forces_sigma`, `stress_sigma`,
    `chain_forces` and `chain_stress` are calculated only if they are requested: they cost as much as all samples.

    An ensemble that has learnt energies alone (`targets: energy`) offers no forces and no stress, one of a network with
    direct forces no stress, which would belong to other forces: asking for them is a `PropertyNotImplementedError` that
    says so. With direct forces a `DirectForcesWarning` is given, since minimisers that look at energies, and dynamics
    at constant energy, need forces that are the gradient of the energy.

    Voigt order xx yy zz yz xz xy, tension positive. For a composition that is not a linear combination of labelled
    ones, or no multiple of one where each has a zero of its own, `energy_sigma` is infinite, the probability is 1 and
    an `OutsideTrainingWarning` is given, once per calculator; its forces can be used. The calibration of a run was made
    with the run's own composition.

    Args:
      ensemble: from `fit`; or the path of an `ensemble.safetensors`, or of the directory of a run or a fine-tuning.
      threshold: error of the total energy such as "0.5 kcal/mol" or "1 meV/atom"; by default that of the run.
        Fine-tunings have no default.
      dtype: floating-point type of the calculation; float64 needs `jax_enable_x64`.
      skin_angstrom: skin of the neighbour list, Å; the list is rebuilt only after atoms have moved so far.

    Raises:
      ConfigError, WeightsError: from `ensemble.load`; ConfigError if the threshold is not an energy, or from
        `get_property` if a probability is requested without a threshold.
      DataError: from a calculation, if an element is not in the fine-tuning data, or if `info`, initial charges or, for
        molecules, initial moments state another charge or spin than the labelled frames. Frames that state none count
        as neutral and in the lowest spin; a structure that states none is taken to be in the state of the frames.
    """

    implemented_properties: ClassVar[list[str]] = [  # pyright: ignore[reportIncompatibleVariableOverride]
        "energy", "free_energy", "forces", "stress", "energy_sigma", "forces_sigma", "stress_sigma",
        "energy_sigma_uncalibrated", PROBABILITY, "chain_energy", "chain_forces", "chain_stress",
    ]  # fmt: skip

    def __init__(
        self,
        ensemble: Ensemble | Path | str,
        *,
        threshold: str | None = None,
        dtype: type = jnp.float32,
        skin_angstrom: float = 0.5,
    ):
        super().__init__()
        self.ensemble = ensemble if isinstance(ensemble, Ensemble) else ensembles.load(Path(ensemble))
        self._withheld = _withheld(self.ensemble)
        offered = [name for name in self.implemented_properties if not self._reason(name)]
        self.implemented_properties = offered  # pyright: ignore[reportAttributeAccessIssue]
        if self.ensemble.learnt_forces and not self.ensemble.conservative:
            text = "forces are not the gradient of the energy: use neither minimisers that look at energies nor NVE"
            warnings.warn(text, DirectForcesWarning, stacklevel=2)
        online = self.ensemble.online
        self.threshold = online.threshold if threshold is None and online is not None else threshold
        if self.threshold is not None:
            units.parse_energy(self.threshold, n_atoms=1, key="threshold")
        self._dtype, self._skin = jnp.dtype(dtype), skin_angstrom
        self._samples = self.ensemble.samples.astype(self._dtype)
        self._warned = False
        self._spec: NeighborSpec | None = None
        self._list: NeighborState | None = None
        self._listed: tuple[bytes, bytes] | None = None  # atomic numbers and periodic directions of the list
        self._evaluate = jax.jit(partial(_evaluate, self.ensemble), static_argnames=("spec", "with_stress", "in_full"))

    @property
    def calibrated(self) -> tuple[str, ...]:
        """Those of `energy`, `forces` and `stress` whose σ is calibrated."""
        factors = self.ensemble.factors._asdict()
        known = {name for name, factor in factors.items() if factor != 1.0}
        return tuple(name for name in factors if name in known or (name == "energy" and self.ensemble.online))

    def get_property(self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a result by name, see the class."""
        reason = self._reason(name)
        if reason:
            allowed = ", ".join(self.implemented_properties)
            raise PropertyNotImplementedError(f"{name}: the ensemble {reason}; allowed: {allowed}")
        if name == PROBABILITY and self.threshold is None:
            raise ConfigError(
                "threshold", None, "an error of the total energy, EnsembleCalculator(..., threshold='20 meV')"
            )
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute all `results`; see the class."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        self._refuse_other_state(self.atoms)
        structure = geometry(self.atoms)
        # A calculation that failed has not made a list, but has changed what ASE compares the next atoms with.
        if self._listed != _kind(structure):
            self._allocate(structure)
        in_full = not self.ensemble.linear or bool(set(properties or ()) & SPREAD_OF_FORCES)
        searched, moments, each = self._call(structure, in_full)
        if bool(searched.overflow):
            self._allocate(structure)
            searched, moments, each = self._call(structure, in_full)
        self._list = searched
        results = self._convert(structure, moments, each)
        self.results = {key: value for key, value in results.items() if in_full or key not in SPREAD_OF_FORCES}
        self._doubt(structure)

    def check_state(self, atoms: ase.Atoms, tol: float = 1e-15) -> list[str]:
        """List changes since the last calculation; also check charge and spin in `info`, which ASE does not compare.

        Raises:
          DataError: see the class.
        """
        self._refuse_other_state(atoms)
        return super().check_state(atoms, tol)

    def _reason(self, name: str) -> str:
        """Why a property is not offered; empty if it is."""
        return next((why for kind, why in self._withheld.items() if kind in name), "")

    def _refuse_other_state(self, atoms: ase.Atoms) -> None:
        """Refuse a charge or spin other than that of the labels, by default neutral and in the lowest spin."""
        refuse_other_state(self.ensemble, atoms)

    def _doubt(self, structure: Structure) -> None:
        """Warn once, and set the energy σ to infinity, if labels do not determine the atomic reference energies."""
        ensemble, what = self.ensemble, ase.Atoms(structure.numbers).get_chemical_formula()
        if not bool(ensemble.knows_energy(structure.numbers)):
            self.results["energy_sigma"] = math.inf
            if PROBABILITY in self.results:
                self.results[PROBABILITY] = 1.0
            labelled = ensemble.compositions is not None and len(ensemble.compositions) > 0
            why = "no labelled frame has an energy"
            if labelled:
                relation = "linear combination" if ensemble.own is None else "multiple"
                why = f"its composition is no {relation} of labelled ones"
        elif not math.isfinite(ensemble.calibrated_energy_sigma(1.0)):
            if ensemble.online is not None:
                self._warn(
                    f"{what}: the run has met too few errors for a finite energy_sigma; the probability is known"
                )
                return
            why = "energies were not learnt, and too few frames tell how wrong they are"
        elif ensemble.compositions is None:
            self._warn(f"{what}: the file does not say for which compositions it knows the atomic reference energies")
            return
        else:
            return
        self._warn(f"{what}: {why}; energy_sigma is infinite, use forces and differences between its geometries only")

    def _warn(self, text: str) -> None:
        if self._warned:
            return
        self._warned = True
        warnings.warn(text, OutsideTrainingWarning, stacklevel=7)

    def _allocate(self, structure: Structure) -> None:
        architecture = self.ensemble.architecture
        self._spec, self._list = neighbors.allocate(
            structure, architecture.elements, architecture.r_max, skin=self._skin, dtype=self._dtype
        )
        self._listed = _kind(structure)

    def _call(self, structure: Structure, in_full: bool) -> tuple[NeighborState, Predictive, Prediction]:
        atomic = self.ensemble.atomic_reference_energy(structure.numbers)
        cell = neighbors.complete_cell(structure.cell, structure.pbc)
        positions = origins.find(structure).local(structure.positions, structure.cell)
        geometry = (jnp.asarray(positions, self._dtype), jnp.asarray(cell, self._dtype))
        differences = jnp.asarray(atomic - np.mean(atomic), self._dtype)
        with_stress = structure.is_periodic and not self._reason("stress")
        return self._evaluate(
            self._samples,
            differences,
            self._list,
            *geometry,
            spec=self._spec,
            with_stress=with_stress,
            in_full=in_full,
        )

    def _convert(self, structure: Structure, moments: Predictive, each: Prediction) -> dict[str, float | np.ndarray]:
        atomic = float(np.mean(self.ensemble.atomic_reference_energy(structure.numbers)))
        factors, sigma = self.ensemble.factors, float(moments.energy_sigma[0])
        energy = float(moments.energy_mean[0]) + atomic
        results: dict[str, float | np.ndarray] = {
            "energy": energy,
            "free_energy": energy,
            "energy_sigma": self.ensemble.calibrated_energy_sigma(sigma),
            "energy_sigma_uncalibrated": sigma,
            "chain_energy": _host(each.energy[:, 0]) + atomic,
        }
        if self.ensemble.learnt_forces:
            results["forces"] = _host(moments.forces_mean[0])
            results["forces_sigma"] = _host(moments.forces_sigma[0]) * factors.forces
            results["chain_forces"] = _host(each.forces[:, 0])
        if self.threshold is not None:
            threshold_ev = units.parse_energy(self.threshold, n_atoms=len(structure.numbers), key="threshold")
            results[PROBABILITY] = self.ensemble.exceedance_probability(sigma, threshold_ev)
        if moments.stress_mean is not None and moments.stress_sigma is not None and each.stress is not None:
            results["stress"] = _host(moments.stress_mean[0])[VOIGT]
            results["stress_sigma"] = _host(moments.stress_sigma[0])[VOIGT] * factors.stress
            results["chain_stress"] = _host(each.stress[:, 0])[:, VOIGT[0], VOIGT[1]]
        return results


def refuse_other_state(ensemble: Ensemble, atoms: ase.Atoms) -> None:
    """Refuse a charge or spin other than that of the labels, by default neutral and in the lowest spin.

    Raises:
      DataError: see `EnsembleCalculator`.
    """
    known = ensemble.labelled_state()
    if known is None:
        return
    asked = state_of(atoms.info, atoms)
    charge = known.charge or 0.0
    if asked.charge is not None and asked.charge != charge:
        what = (
            "neutral, as the labelled frames that state none" if known.charge is None else "that of the labelled frames"
        )
        raise DataError(f"atoms: got charge {asked.charge:g}; allowed: {charge:g}, {what}")
    if asked.spin is None:
        return
    mine, theirs = (
        multiplicities(State(charge, spin), atoms.numbers, periodic=bool(atoms.pbc.any()))
        for spin in (asked.spin, known.spin)
    )
    if asked.spin != known.spin and not mine & theirs:
        own = "the lowest, since the labelled frames state none"
        told = own if known.spin is None else f"{known.spin[0]} {known.spin[1]:g}, that of the labelled frames"
        raise DataError(f"atoms: got {asked.spin[0]} {asked.spin[1]:g}; allowed: {told}")


def _evaluate(
    ensemble: Ensemble,
    samples: jax.Array,
    differences: jax.Array,
    state: NeighborState,
    positions: jax.Array,
    cell: jax.Array,
    *,
    spec: NeighborSpec,
    with_stress: bool,
    in_full: bool,
) -> tuple[NeighborState, Predictive, Prediction]:
    """Neighbour list (rebuilt if outdated), mean and σ over the samples, and the predictions of each sample."""
    moved = neighbors.move(state, positions, cell)
    searched = jax.lax.cond(neighbors.stale(moved, spec), lambda s: neighbors.update(s, spec), lambda s: s, moved)
    batch = jax.tree.map(lambda x: x[None], searched.graph)
    predict = ensemble.predict_fn(with_stress=with_stress, with_slopes=ensemble.linear and not in_full)
    if ensemble.linear:
        whole = energy_zero.joined(samples, differences)
        each = linearised(energy_zero.with_zero(predict), with_forces=in_full)(whole, batch)
    else:
        each = jax.vmap(predict, in_axes=(0, None))(samples, batch)
        each = each._replace(energy=each.energy + differences[:, None])
    moments = combine(
        each,
        energy_sigma=of_structures(ensemble.energy_sigma_ev, positions.shape[0]),
        stress_sigma=ensemble.stress_sigma_ev_a3,
        allow_single_chain=samples.shape[0] == 1,
    )
    return searched, moments if in_full else unspread(moments), each


def _withheld(ensemble: Ensemble) -> dict[str, str]:
    """Kinds of properties that an ensemble does not offer, and why."""
    if not ensemble.learnt_forces:
        untrained = "has learnt energies alone (targets: energy), and its forces were never compared with labels"
        return dict.fromkeys(("forces", "stress"), untrained)
    if not ensemble.conservative:
        return {"stress": "has forces that are not the gradient of its energy, but stress would be"}
    return {}


def _kind(structure: Structure) -> tuple[bytes, bytes]:
    """What a neighbour list is made for; it follows positions and cell."""
    return structure.numbers.tobytes(), structure.pbc.tobytes()


def _host(x: jax.Array) -> np.ndarray:
    return np.array(x, np.float64)
