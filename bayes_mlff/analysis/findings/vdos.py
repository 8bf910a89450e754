"""Velocity autocorrelation and vibrational density of states, by element."""

from typing import Final

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from bayes_mlff.analysis import options, replica, vibrations
from bayes_mlff.analysis.finding import Finding
from bayes_mlff.analysis.options import Options
from bayes_mlff.analysis.replica import Replica
from bayes_mlff.analysis.vibrations import Spectrum
from bayes_mlff.core.errors import DataError
from bayes_mlff.core.plots import BLUE, GREEN, GREY, ORANGE, RED, STYLE, png
from bayes_mlff.core.units import PER_CM

_COLORS: Final = (BLUE, RED, GREEN, ORANGE, GREY)
_FASTEST: Final = {True: 4000.0, False: 1500.0}
"""Wavenumber, cm⁻¹, below which all vibrations with and without hydrogen are."""
_RESOLUTION: Final = 10.0
"""Default resolution, cm⁻¹."""
_SEGMENTS: Final = 4
"""Default least number of segments of each trajectory, overlapping by half: one alone is as noisy as it is high."""
_SHORTEST: Final = 16
"""Least number of frames of a segment."""


def find(replicas: list[Replica], chosen: Options) -> Finding:
    """Spectrum of all replicas; they must have velocities, times and one length.

    Raises:
      DataError: naming the file that has no velocities or too few frames, or differs from the first in length.
    """
    for each in replicas:
        if each.velocities is None:
            raise DataError(f"{each.name}: got no velocities; allowed: for a spectrum, momenta in every frame")
    replica.check_equal_lengths(replicas)
    used, said = options.averaged(replicas, chosen)
    first, interval = used[0], used[0].interval_fs()
    series = [_velocities(each, keep_drift=chosen.keep_drift) for each in used]
    frames = len(series[0])
    if frames < _SHORTEST:
        raise DataError(f"{first.name}: got {frames} frames; allowed: for a spectrum, at least {_SHORTEST}")
    length = _length(frames, interval, chosen.resolution)
    elements = first.elements()
    groups = [first.of(name, "elements") for name in elements]
    found = vibrations.spectrum(series, first.masses, groups, interval, length=length)
    most = min(length, frames // 2)
    correlation = vibrations.autocorrelation(series, first.masses, most)
    kelvin = float(np.mean([vibrations.temperature(x, first.masses) for x in series]))
    nyquist = 0.5 / interval / PER_CM
    assumed = [
        said,
        "motion of the centre of mass left in as told"
        if chosen.keep_drift
        else "velocities relative to the centre of mass (--keep-drift); rotation is left in",
        f"Hann window, {found.segments} segments of {length * interval / 1e3:.3g} ps overlapping by half: "
        f"resolution {found.resolution:.3g} cm⁻¹ (--resolution)",
        f"frames every {interval:g} fs resolve up to {nyquist:.0f} cm⁻¹; faster vibrations appear mirrored below that",
        f"integral before scaling to 1: {found.sum_rule:.3f} of the mean kinetic energy",
    ]
    fastest = _FASTEST["H" in elements]
    if nyquist < fastest:
        assumed.append(f"WARNING: vibrations up to {fastest:g} cm⁻¹ are possible here; store frames more often")
    total = found.density.sum(axis=0)
    top = float(found.wavenumber[1:][np.argmax(total[1:])])
    rows = [
        ("highest peak", f"{top:.0f} cm⁻¹"),
        ("temperature", f"{kelvin:.0f} K, of 3 n directions"),
        *((name, f"{share:.1%} of the kinetic energy") for name, share in zip(elements, _shares(found), strict=True)),
    ]
    table = {"wavenumber_per_cm": found.wavenumber, "total_cm": total}
    table |= {f"{name}_cm": row for name, row in zip(elements, found.density, strict=True)}
    results = {
        "window": vibrations.WINDOW,
        "resolution_per_cm": found.resolution,
        "largest_per_cm": nyquist,
        "segments": found.segments,
        "sum_rule": found.sum_rule,
        "highest_peak_per_cm": top,
        "temperature_k": kelvin,
        "autocorrelation": {"lag_fs": interval * np.arange(most), "value": correlation},
    }
    image = _figure(found, elements, interval * np.arange(most), correlation)
    return Finding("vdos", "Vibrational density of states", rows, assumed, table, results, image)


def _length(frames: int, interval_fs: float, resolution: float | None) -> int:
    """Frames of a segment, for a resolution in cm⁻¹ or, if none is told, so short that there are several segments."""
    wanted = 1.44 / ((_RESOLUTION if resolution is None else resolution) * PER_CM * interval_fs)
    most = frames if resolution is not None else 2.0 * frames / (_SEGMENTS + 1)
    return int(np.clip(round(min(wanted, most)), _SHORTEST, frames))


def _velocities(each: Replica, *, keep_drift: bool) -> np.ndarray:
    velocities = np.asarray(each.velocities)
    if keep_drift:
        return velocities
    return velocities - np.average(velocities, axis=1, weights=each.masses)[:, None]


def _shares(found: Spectrum) -> list[float]:
    return (found.density.sum(axis=1) / found.density.sum()).tolist()


def _figure(found: Spectrum, elements: list[str], lag_fs: np.ndarray, correlation: np.ndarray) -> bytes:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 5.2), layout="constrained")
        top, bottom = figure.subplots(2, 1, height_ratios=[2, 1])
        total = found.density.sum(axis=0)
        top.fill_between(found.wavenumber, total, color=GREY, alpha=0.35, linewidth=0, label="all atoms")
        for color, name, row in zip(_COLORS * len(elements), elements, found.density, strict=False):
            top.plot(found.wavenumber, row, color=color, linewidth=1.0, label=name)
        shown = found.wavenumber[np.flatnonzero(total > 0.01 * total.max())[-1]]
        top.set(xlabel="wavenumber / cm⁻¹", ylabel="density of states / cm", ylim=(0, None), xlim=(0, 1.05 * shown))
        top.legend()
        bottom.plot(lag_fs, correlation, color=BLUE)
        bottom.set(xlabel="lag / fs", ylabel="autocorrelation", xlim=(0, min(float(lag_fs[-1]), 1000.0)))
        return png(figure)
