"""What the thresholds of a run mean for its system, in words."""

import jax
import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble.statistics import ForceSpread
from bayes_mlff.ensemble.triggers import Criterion
from bayes_mlff.otf.criteria import criteria
from bayes_mlff.otf.problem import Problem, learning_graph
from bayes_mlff.otf.regions import atoms_now

_HEAD = ("trigger", "total energy", "per atom", "force on an atom", "per component", "σ at the start", "watches")


def table(problem: Problem) -> list[str]:
    """A row for each trigger: its threshold for energy or force, and the largest σ that asks for no label at first.

    Of thresholds that grow with the temperature, both are for the temperature that they are stated for, which is named.
    The threshold per component is that of three independent components of equal size, 1/√3 of that of the norm.
    """
    config = problem.config
    stated = [config.threshold_temperature_k, *(each.threshold_temperature_k for each in config.triggers)]
    pairs = zip(criteria(problem), stated, strict=True)
    rows = [_HEAD, *(_row(criterion, problem.structure, at_k) for criterion, at_k in pairs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(criterion: Criterion, structure: Structure, at_k: float | None) -> tuple[str, ...]:
    statistic, n = criterion.statistic, len(structure.numbers)
    unit, factor = statistic.shown_unit
    limit = f"{factor * criterion.limit(criterion.prior):.3g} {unit}"
    name = f"{statistic.name} ({criterion.confidence:.3g}{'' if at_k is None else f', at {at_k:g} K'})"
    if isinstance(statistic.value, ForceSpread):
        force, inside = factor * criterion.threshold, atoms_now(statistic.value.region, structure)
        return (
            name, "", "", f"{force:.3g} {unit}", f"{force / np.sqrt(3.0):.3g} {unit}", limit,
            f"{len(inside)} of {n} atoms now: {_listed(inside, structure)}",
        )  # fmt: skip
    total = criterion.threshold * (n if statistic.unit == "eV/atom" else 1)
    energy, per_atom = f"{total * KCAL_MOL_PER_EV:.3g} kcal/mol", f"{1e3 * total / n:.3g} meV"
    return name, energy, per_atom, "", "", limit, "all atoms together"


def _listed(atoms: np.ndarray, structure: Structure) -> str:
    names = [f"{chemical_symbols[structure.numbers[i]]} {i}" for i in atoms[:6]]
    return ", ".join(names) + (", ..." if len(atoms) > 6 else "")


def first_errors(problem: Problem, label: Label) -> list[str]:
    """Force errors of the model before it has learnt anything, for the first structure, beside each threshold."""
    structure, said = problem.structure, []
    graph = jax.tree.map(lambda x: x[None], learning_graph(problem, structure))
    wrong = np.asarray(jax.jit(problem.predict)(problem.pretrained[0], graph).forces[0], np.float64) - label.forces
    size = np.linalg.norm(wrong, axis=1)
    for criterion in criteria(problem):
        statistic = criterion.statistic
        if not isinstance(statistic.value, ForceSpread):
            continue
        unit, factor = statistic.shown_unit
        inside = atoms_now(statistic.value.region, structure)
        worst = int(inside[np.argmax(size[inside])])
        above = int(np.sum(size[inside] > criterion.threshold))
        said.append(
            f"{statistic.name}: the forces of the model are wrong by up to {factor * size[worst]:.3g} {unit} "
            f"({chemical_symbols[structure.numbers[worst]]} {worst}) before it learns; {above} of {len(inside)} atoms "
            f"are above the threshold of {factor * criterion.threshold:.3g} {unit}"
        )
    rms = float(np.sqrt(np.mean(np.square(wrong))))
    every = f"all atoms: RMSE {rms * KCAL_MOL_PER_EV:.3g} kcal/mol/Å per component before the model learns"
    return [every, *said]
