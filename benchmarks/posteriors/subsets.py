"""Which weights must be uncertain for σ of energies to know where the errors are, around one optimum.

    python -m benchmarks.posteriors.subsets CONFIG.yaml LABELS.extxyz OUT.json --frames SAME.extxyz HOTTER.extxyz
        [--updates 1 2 3 ...] [--set sampler.steps=1000 ...]

All labels are learnt, one after the other, with `posterior: laplace`. Then σ of every frame is calculated from the
normal posterior itself, without samples, for subsets of the weights, all others held. What a σ is worth is the mean log
density of the errors under the best law N(0, (factor σ)² + floor²) of its own; that of a constant σ is given beside it.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import yaml
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.flatten_util import ravel_pytree
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from bayes_mlff.core.command_line import override
from bayes_mlff.core.durable import write_whole
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.ensemble.metrics import rmse
from bayes_mlff.ensemble.ranking import ranking
from bayes_mlff.models.layers import last_readout
from bayes_mlff.otf import config as configuration
from bayes_mlff.otf.problem import Problem
from bayes_mlff.posterior import energy_zero, laplace
from bayes_mlff.posterior.likelihood import Likelihood
from benchmarks.sigma.run import Study, arguments, read


def main() -> None:
    """Learn, compare and write."""
    args = arguments(__doc__).parse_args()
    raw = yaml.safe_load(args.config.read_text())
    override(raw, [*(args.set or []), "posterior=laplace"])
    labels, groups = read(args.labels), [read(path) for path in args.frames]
    study = Study(configuration.parse(raw), labels, [frame for group in groups for frame in group])
    for count in range(1, len(labels) + 1):
        study.learn(update=not args.updates or count in args.updates or count == len(labels))
    found = compared(study, np.cumsum([len(group) for group in groups]))
    print(json.dumps(found, indent=1), flush=True)
    about = {"config": raw, "labels": args.labels.name, "frames": [path.name for path in args.frames]}
    write_whole(args.out, (json.dumps({**about, "found": found}, indent=1) + "\n").encode())


def compared(study: Study, ends: np.ndarray) -> list[dict[str, Any]]:
    """Numbers of every subset, for the frames before each of the ends [g]."""
    problem, centre = study.problem, study.chains.samples[0]
    whole = _slopes(problem, centre, study.frame_graphs)
    rows, zero = _rows(problem, centre, study.chains.labels)
    errors = study.errors() * KCAL_MOL_PER_EV
    found = []
    for name, chosen in _subsets(problem).items():
        sigma = KCAL_MOL_PER_EV * _sigma(whole[:, chosen], rows[:, chosen], zero, float(problem.prior.scale))
        for end in ends:
            known = ranking(errors[:end], sigma[:end])
            (factor, floor), density = _best(errors[:end], sigma[:end])
            numbers = {} if known is None else {"rho": known.rho, "slope": known.slope, "range": known.range}
            found.append(
                {
                    "weights": name,
                    "count": int(chosen.sum()),
                    "frames": int(end),
                    "rmse": rmse(errors[:end]),
                    **numbers,
                    "factor": factor,
                    "floor": floor,
                    "log_density": density,
                    "log_density_of_constant": _best(errors[:end], np.zeros(end))[1],
                }
            )
    return found


def _subsets(problem: Problem) -> dict[str, np.ndarray]:
    leaves = flatten_dict(problem.potential.params)
    last = max(path[0] for path in leaves if path[0].startswith("interaction"))

    def where(chosen: Callable[[tuple], bool]) -> np.ndarray:
        marks = {path: np.full(np.shape(leaf), float(chosen(path))) for path, leaf in leaves.items()}
        return np.asarray(ravel_pytree(unflatten_dict(marks))[0]) > 0.5

    final = np.zeros(problem.prior.mean.shape[0], bool)
    final[last_readout(problem.potential)] = True
    return {
        "all": where(lambda path: True),
        "last interaction and readout": where(lambda path: path[0] == last or path[0].startswith("readout")),
        "readout": where(lambda path: path[0].startswith("readout")),
        "last layer": final,
    }


def _slopes(problem: Problem, centre: jax.Array, graphs: list) -> np.ndarray:
    """Gradients [m, p] of the energies."""
    one = jax.jit(jax.grad(lambda w, g: problem.predict(w, jax.tree.map(lambda x: x[None], g)).energy[0]))
    return np.array([np.asarray(one(centre, graph), np.float64)[:-1] for graph in graphs])


def _rows(problem: Problem, centre: jax.Array, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the design matrix [m, p], and the column of the zero of the energies [m]."""

    def predict(weights: jax.Array, graphs: Any) -> Any:
        return problem.predict(energy_zero.joined(weights, centre[-1]), graphs)

    likelihood = Likelihood(problem.energy_sigma_ev)
    made = jax.jit(
        lambda: laplace.design(
            predict, likelihood, centre[:-1], labels, problem.config.laplace.force_directions, jax.random.key(0)
        )
    )()
    return np.asarray(made.weights, np.float64), np.asarray(made.zero, np.float64)


def _sigma(whole: np.ndarray, rows: np.ndarray, zero: np.ndarray, scale: float) -> np.ndarray:
    """Standard deviations [m], eV, of energies with gradients [m, p], and of their zero."""
    factor = cho_factor(np.eye(len(rows)) + scale**2 * rows @ rows.T)
    cross = scale**2 * whole @ rows.T
    variance = scale**2 * np.sum(whole**2, axis=1) - np.sum(cross * cho_solve(factor, cross.T).T, axis=1)
    column = cho_solve(factor, zero)
    return np.sqrt(np.maximum(variance, 0.0) + (1.0 - cross @ column) ** 2 / (zero @ column))


def _best(errors: np.ndarray, sigma: np.ndarray) -> tuple[tuple[float, float], float]:
    """Factor and floor of the best law, and the mean log density under it; kcal/mol."""

    def cost(x: np.ndarray) -> float:
        variance = np.square(np.exp(x[0]) * sigma) + np.exp(2.0 * x[1])
        return float(np.mean(0.5 * np.log(2.0 * np.pi * variance) + 0.5 * errors**2 / variance))

    starts = [(np.log(a), np.log(rmse(errors) * b)) for a in (0.3, 1.0, 3.0, 10.0) for b in (0.1, 1.0)]
    best = min((minimize(cost, x, method="Nelder-Mead") for x in starts), key=lambda found: found.fun)
    return (float(np.exp(best.x[0])), float(np.exp(best.x[1]))), -float(best.fun)


if __name__ == "__main__":
    main()
