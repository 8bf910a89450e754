"""Whether a label of unknown origin is what the reference of a run gives for the same geometry."""

from typing import Final

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.ensemble.metrics import rmse
from bayes_mlff.otf.problem import Problem

ENERGY_SIGMAS: Final = 2.0
"""Largest difference of total energies, in standard deviations of the energy in the likelihood."""

FORCES: Final = 0.02
"""Largest root mean square difference of force components, eV/Å; functionals differ by more, versions by less."""

STRESS_SIGMAS: Final = 4.0
"""Largest root mean square difference of stress components, in their standard deviations in the likelihood."""


def check(given: LabelRecord, made: Label, problem: Problem) -> None:
    """Refuse given labels of which one differs from what the reference gives.

    Raises:
      ConfigError: naming both numbers.
    """
    config = problem.config
    sigmas = {"energy_sigma_ev": problem.energy_sigma_ev, "stress_sigma_ev_a3": problem.stress_sigma}
    found = differences(given.label, made, **sigmas)
    if not found:
        return
    key, file = "start", " and ".join([] if config.start is None else config.start.paths())
    raise ConfigError(
        key,
        file,
        f"labels as the reference gives them; for the geometry of label {given.step} they have {'; '.join(found)} "
        "(another method, zero of energies, charge, spin or unit?)",
    )


def differences(given: Label, made: Label, *, energy_sigma_ev: float, stress_sigma_ev_a3: float | None) -> list[str]:
    """In what a given label differs from one that the reference has made, with both numbers.

    Energies are compared as they are: a constant between two programs would shift the given ones against all labels of
    the run.

    Args:
      given: label of the same geometry from elsewhere.
      made: by the reference of the run.
      energy_sigma_ev: standard deviation of total energies in the likelihood, eV.
      stress_sigma_ev_a3: of stress components, eV/Å³; None where no stress is learnt.

    Returns:
      One phrase for each difference; empty if they agree.
    """
    found = []
    apart, most = abs(given.energy - made.energy), ENERGY_SIGMAS * energy_sigma_ev
    if not apart <= most:
        found.append(
            f"energy {given.energy:.6f} eV, by the reference {made.energy:.6f} eV ("
            f"{apart * KCAL_MOL_PER_EV:.3g} kcal/mol apart, at most {most * KCAL_MOL_PER_EV:.3g})"
        )
    apart = rmse(given.forces - made.forces)
    if not apart <= FORCES:
        found.append(
            f"forces of {rmse(given.forces):.4g} eV/Å, by the reference {rmse(made.forces):.4g} eV/Å (root mean "
            f"squares; {apart:.3g} apart, at most {FORCES:g})"
        )
    if stress_sigma_ev_a3 is None or given.stress is None or made.stress is None:
        return found
    apart, most = rmse(given.stress - made.stress), STRESS_SIGMAS * stress_sigma_ev_a3
    if not apart <= most:
        found.append(
            f"stress of {rmse(given.stress):.3g} eV/Å³, by the reference {rmse(made.stress):.3g} eV/Å³ (root mean "
            f"squares; {apart:.3g} apart, at most {most:.3g})"
        )
    return found
