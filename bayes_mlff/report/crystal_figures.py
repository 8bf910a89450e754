"""Additional figures for crystals: bonds, cell, temperature and pressure along the run."""

from typing import Final, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_mlff.analysis import averages, bonds, lattice
from bayes_mlff.analysis.bonds import Bonds
from bayes_mlff.core.plots import BLUE, GREEN, ORANGE, RED, STYLE
from bayes_mlff.md.schedule import Schedule
from bayes_mlff.report.figures import Panel, band, label_ticks, mark_segments, png
from bayes_mlff.runs.thermo_log import ThermoSeries
from bayes_mlff.runs.trajectory import Trajectory

_SETTLING: Final = 0.2


class SegmentMean(NamedTuple):
    """Mean bonds in a segment of constant temperature."""

    temperature_k: float
    begin_fs: float
    end_fs: float
    distance: np.ndarray  # [3] Å: short, middle, long


def segment_means(octahedra: Bonds, schedule: Schedule) -> list[SegmentMean]:
    """Mean bonds in each started segment of constant temperature, without its first fifth."""
    means, last = [], float(octahedra.time_fs[-1])
    ends = np.minimum(schedule.end_fs, last)
    begins = schedule.begin_fs + _SETTLING * (ends - schedule.begin_fs)
    for begin, end, (cool, warm) in zip(begins.tolist(), ends.tolist(), schedule.temperature_k, strict=True):
        distance = bonds.mean_distances(octahedra, begin, end)
        if cool == warm and begin < end and distance is not None:
            means.append(SegmentMean(float(cool), begin, end, distance))
    return means


def bonds_panel(octahedra: Bonds, schedule: Schedule | None, label_time_fs: np.ndarray) -> Panel:
    """Short, middle and long bonds of the octahedra, in every frame and on average."""
    title = f"{octahedra.pair} distances"
    if octahedra.time_fs.size < 2:
        return Panel(title, "Fewer than two frames have been written.")
    window = averages.window_fs(octahedra.time_fs)
    now = bonds.short_middle_long(octahedra.distance)
    middle, averaged = averages.moving_average(octahedra.time_fs, octahedra.distance, window)
    mean = bonds.short_middle_long(averaged)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.8), layout="constrained")
        axes = figure.subplots()
        for i, (color, name) in enumerate(((BLUE, "short"), (GREEN, "middle"), (RED, "long"))):
            axes.plot(octahedra.time_fs / 1e3, now[:, i], color=color, linewidth=0.4, alpha=0.35)
            axes.plot(middle / 1e3, mean[:, i], color=color, linewidth=1.8, label=name)
        axes.set(xlabel="time / ps", ylabel=f"{octahedra.pair} distance / Å")
        _mark(axes, schedule, octahedra.time_fs, label_time_fs)
        figure.legend(loc="outside upper center", ncols=4)
        caption = (
            f"Pairs of the six bonds of an atom. Thin: sorted in every frame, so that thermal motion separates them. "
            f"Thick: each bond averaged over {window / 1e3:.3g} ps, then sorted; equal octahedra have one distance."
        )
        return Panel(title, caption, png(figure))


def cell_panel(
    trajectory: Trajectory, schedule: Schedule | None, label_time_fs: np.ndarray, *, perovskite: bool
) -> Panel:
    """Lengths, angles and volume of a cell that changes; the lengths as pseudo-cubic ones for 20-atom perovskites."""
    title = "Lattice parameters"
    if trajectory.time_fs.size < 2:
        return Panel(title, "Fewer than two frames have been written.")
    cells = trajectory.cells
    if lattice.constant(cells):
        return Panel(title, "The cell of this run is constant.")
    n, window = trajectory.numbers.size, averages.window_fs(trajectory.time_fs)
    shape = lattice.lattice(cells, pseudo_cubic=perovskite and n == 20)
    volume = np.abs(np.linalg.det(cells))[:, None] / n
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 6.4), layout="constrained")
        rows = figure.subplots(3, 1, sharex=True)
        for axes, values, labels, unit in (
            (rows[0], shape.lengths, shape.names, "length / Å"),
            (rows[1], volume, ["volume"], "volume per atom / Å³"),
            (rows[2], shape.angles, ["α", "β", "γ"], "angle / °"),
        ):
            middle, mean = averages.moving_average(trajectory.time_fs, values, window)
            for i, (label, color) in enumerate(zip(labels, (BLUE, GREEN, RED), strict=False)):
                axes.plot(trajectory.time_fs / 1e3, values[:, i], color=color, linewidth=0.4, alpha=0.35)
                axes.plot(middle / 1e3, mean[:, i], color=color, linewidth=1.8, label=label)
            axes.set_ylabel(unit)
            _mark(axes, schedule, trajectory.time_fs, label_time_fs)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        rows[2].set_xlabel("time / ps")
        cubic = (
            " Lengths are divided as labelled, so that they are equal for a cubic crystal."
            if any(shape.divisors)
            else ""
        )
        caption = f"Thin: every frame. Thick: averages over {window / 1e3:.3g} ps.{cubic}"
        return Panel(title, caption, png(figure))


def conditions_panel(thermo: ThermoSeries, schedule: Schedule | None, *, at_pressure: bool) -> Panel:
    """Temperature and internal pressure against the schedule.

    Args:
      thermo: logged steps; without known pressures only the temperature is shown.
      schedule: scheduled temperature and pressure; None for NVE.
      at_pressure: whether the pressure of the schedule is controlled, too.
    """
    title = "Temperature and pressure"
    if thermo.time_fs.size < 2:
        return Panel(title, "Fewer than two steps have been logged.")
    known = np.zeros(0, bool) if thermo.pressure_gpa is None else np.isfinite(thermo.pressure_gpa)
    shown = [(thermo.time_fs, thermo.temperature_k, None if schedule is None else schedule.temperature_k, "K")]
    if thermo.pressure_gpa is not None and known.sum() > 1:
        held = schedule.pressure_gpa if schedule is not None and at_pressure else None
        shown.append((thermo.time_fs[known], thermo.pressure_gpa[known], held, "GPa"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 0.8 + 2.0 * len(shown)), layout="constrained")
        rows = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (time, values, target, unit) in zip(rows, shown, strict=True):
            name, color = ("temperature", ORANGE) if unit == "K" else ("pressure", BLUE)
            band(axes, time / 1e3, values, color, name)
            middle, mean = averages.moving_average(time, values, averages.window_fs(time))
            axes.plot(middle / 1e3, mean, color=GREEN, linewidth=1.8, label="moving average")
            if schedule is not None and target is not None:
                ends = np.minimum(np.stack([schedule.begin_fs, schedule.end_fs], axis=1), time[-1])
                begun = schedule.begin_fs < time[-1]
                axes.plot(ends[begun].ravel() / 1e3, _cut(schedule, target, time[-1])[begun].ravel(), color="black",
                          linestyle="--", linewidth=1.0, label="schedule")  # fmt: skip
            axes.set_ylabel(f"{name} / {unit}")
            axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, borderaxespad=0.1)
        rows[-1].set_xlabel("time / ps")
        window = averages.window_fs(thermo.time_fs)
        caption = f"Line and band: mean and range within stretches; averages over {window / 1e3:.3g} ps."
        if len(shown) == 1:
            caption += " The pressure of this run has not been logged."
        return Panel(title, caption, png(figure))


def _cut(schedule: Schedule, target: np.ndarray, end_fs: float) -> np.ndarray:
    """Values [m, 2] of a schedule at the ends of its segments; the present segment ends at `end_fs`."""
    length = schedule.end_fs - schedule.begin_fs
    share = np.where(np.isfinite(length), np.clip((end_fs - schedule.begin_fs) / length, 0.0, 1.0), 0.0)
    return np.stack([target[:, 0], target[:, 0] + share * (target[:, 1] - target[:, 0])], axis=1)


def _mark(axes: Axes, schedule: Schedule | None, time_fs: np.ndarray, label_time_fs: np.ndarray) -> None:
    """Labels as ticks at the bottom, and the segments of the schedule."""
    label_ticks(axes, label_time_fs)
    mark_segments(axes, schedule, float(time_fs[-1]))
