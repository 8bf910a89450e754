"""Mean square displacements and diffusion coefficients by element."""

from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from bayes_mlff.analysis import diffusion, images, options, replica
from bayes_mlff.analysis.diffusion import Diffusion
from bayes_mlff.analysis.finding import Finding
from bayes_mlff.analysis.options import Options
from bayes_mlff.analysis.replica import Replica
from bayes_mlff.core.errors import DataError
from bayes_mlff.core.plots import BLUE, GREEN, GREY, ORANGE, RED, STYLE, png
from bayes_mlff.core.units import CM2_S

_COLORS: Final = (BLUE, RED, GREEN, ORANGE, GREY, "black")
_NEAR: Final = 0.8
"""Largest displacement between frames, as a share of half the cell, without a remark."""


def find(replicas: list[Replica], chosen: Options) -> Finding:
    """Mean square displacements and diffusion coefficients; replicas must have one length.

    Raises:
      DataError: if times are unknown, replicas differ in length, or atoms cannot leave their centre of mass.
      ConfigError: if an element is not there.
    """
    replica.check_equal_lengths(replicas)
    used, said = options.averaged(replicas, chosen)
    first, interval = used[0], used[0].interval_fs()
    if (len(first.numbers) < 2 or not first.pbc.any()) and not chosen.keep_drift:
        raise DataError(
            f"{first.name}: a molecule does not leave its own centre of mass; allowed: --keep-drift, or a cell"
        )
    moved = [images.paths(each.positions, each.cells, each.pbc) for each in used]
    assumed = [said, *_remarks(used, moved)]
    if not chosen.keep_drift:
        moved = [x - np.average(x, axis=1, weights=first.masses)[:, None] for x in moved]
    assumed.append(
        "motion of the centre of mass left in as told"
        if chosen.keep_drift
        else "displacements relative to the centre of mass of all atoms (--keep-drift)"
    )
    names = chosen.species or tuple(first.elements())
    time = interval * np.arange(len(moved[0]) // 2)
    curves, walks = {}, {}
    for name in names:
        atoms = first.of(name, "--species")
        paths = [x[:, atoms] for x in moved]
        curves[name] = diffusion.mean_square_displacement(paths)[: len(time)]
        walks[name] = diffusion.coefficient(paths, interval)
    assumed += [
        "diffusion coefficients by generalised least squares with the covariance of a random walk; frames are thinned "
        "until the walk fits; atoms of an element count as independent",
        "no correction for the size of the cell",
    ]
    spread = {name: _between(moved, first.of(name, "--species"), interval) for name in names}
    rows = [(name, _sentence(walks[name], spread[name], interval)) for name in names]
    table = {"lag_fs": time} | {f"{name}_angstrom2": curve for name, curve in curves.items()}
    results = {
        name: _numbers(walks[name], spread[name], interval)
        | {"msd_at_half_angstrom2": float(curves[name][-1]), "atoms": int(first.of(name, "--species").size)}
        for name in names
    }
    everything = {"elements": results, "centre_of_mass_removed": not chosen.keep_drift}
    title = "Mean square displacements"
    return Finding("msd", title, rows, assumed, table, everything, _figure(time, curves, walks, interval))


def _remarks(used: list[Replica], moved: list[np.ndarray]) -> list[str]:
    """What may be wrong with the continuous paths."""
    said = []
    step = max(images.largest_step(x, each.cells, each.pbc) for x, each in zip(moved, used, strict=True))
    if step > _NEAR:
        said.append(
            f"WARNING: an atom moves {step:.0%} of half the cell between frames, so that paths may be wrong; "
            "frames must be stored more often"
        )
    if used[0].pbc.any() and any(np.ptp(each.cells, axis=0).max() > 1e-6 for each in used):
        said.append("the cell moves, and atoms with it: displacements include that")
    return said


def _between(moved: list[np.ndarray], atoms: np.ndarray, interval: float) -> float | None:
    """Standard error of D, Å²/fs, from the scatter between at least three replicas; None if unknown."""
    alone = [diffusion.coefficient([x[:, atoms]], interval) for x in moved] if len(moved) > 2 else []
    values = [each.value for each in alone if each is not None]
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 2 else None


def _sentence(walk: Diffusion | None, spread: float | None, interval: float) -> str:
    if walk is None:
        return "no D: too short, or at no interval between frames a random walk"
    limits = f"{walk.lower / CM2_S:.3g} to {walk.upper / CM2_S:.3g}"
    value = f"D = {walk.value / CM2_S:.3g} cm²/s, 95 % interval {limits}"
    if not walk.significant:
        value = f"no diffusion seen: D is below {walk.upper / CM2_S:.3g} cm²/s (95 %)"
    said = f"{value}; steps of {walk.fit.stride * interval:.4g} fs, p = {walk.fit.p_value:.2f}"
    if spread is None:
        return said
    more = "; WARNING: more than the interval says" if spread > 2.0 * walk.error else ""
    return f"{said}; standard error from replicas {spread / CM2_S:.2g}, from the fit {walk.error / CM2_S:.2g}{more}"


def _numbers(walk: Diffusion | None, spread: float | None, interval: float) -> dict[str, Any]:
    if walk is None:
        return {"diffusion_cm2_s": None}
    return {
        "diffusion_cm2_s": walk.value / CM2_S,
        "standard_error_cm2_s": walk.error / CM2_S,
        "interval_95_cm2_s": [walk.lower / CM2_S, walk.upper / CM2_S],
        "standard_error_between_replicas_cm2_s": None if spread is None else spread / CM2_S,
        "significant": walk.significant,
        "step_fs": walk.fit.stride * interval,
        "offset_angstrom2": walk.fit.offset,
        "p_value_of_random_walk": walk.fit.p_value,
    }


def _figure(
    time: np.ndarray, curves: dict[str, np.ndarray], walks: dict[str, Diffusion | None], interval: float
) -> bytes:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for color, (name, curve) in zip(_COLORS * len(curves), curves.items(), strict=False):
            left.plot(time / 1e3, curve, color=color, label=name)
            walk = walks[name]
            if walk is None:
                continue
            lag = walk.fit.stride * interval * walk.fit.lags / 1e3
            left.errorbar(lag, walk.fit.msd, walk.fit.msd_error, fmt=".", color=color, capsize=2)
            ends = np.array([0.0, lag[-1]])
            left.plot(
                ends, walk.fit.offset + walk.fit.slope * ends / lag[0], color=color, linestyle="--", linewidth=0.9
            )
            step = np.array([each.stride * interval for each in walk.tried])
            dimension = 6.0 * step * CM2_S
            value = np.array([each.slope for each in walk.tried]) / dimension
            error = np.array([each.slope_error for each in walk.tried]) / dimension
            right.errorbar(step, value, error, fmt=".-", linewidth=0.7, color=color, capsize=2)
            at = walk.fit.stride * interval
            right.plot([at], [walk.value / CM2_S], "o", color=color, ms=7, mfc="none")
        left.set(xlabel="lag / ps", ylabel="mean square displacement / Å²", xlim=(0, None), ylim=(0, None))
        left.legend()
        if not any(walks.values()):
            right.text(0.5, 0.5, "no random walk", transform=right.transAxes, ha="center")
        right.axhline(0.0, color="black", linewidth=0.7)
        right.set(xscale="log", xlabel="time between the frames used / fs", ylabel="D / cm²/s")
        right.set_title("circle: used; where D still changes, it is no random walk yet", fontsize=8.5)
        return png(figure)
