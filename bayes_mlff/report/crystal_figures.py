"""Additional figures for crystals: bonds, cell, temperature and pressure along the run.

A perovskite's B atom is a transition metal whose six nearest anions are well apart from the seventh. Each of its six
bonds is followed through the run, however the atoms are wrapped into the cell, so that it can be averaged over time.
"""

from typing import Final, NamedTuple

import matplotlib
import numpy as np
from ase.data import chemical_symbols
from ase.geometry import minkowski_reduce
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_mlff.core.plots import BLUE, GREEN, ORANGE, RED, STYLE
from bayes_mlff.md.schedule import Schedule
from bayes_mlff.report.figures import Panel, band, label_ticks, mark_segments, png
from bayes_mlff.runs.thermo_log import ThermoSeries
from bayes_mlff.runs.trajectory import Trajectory

_METALS: Final = (*range(21, 31), *range(39, 49), *range(72, 81))
_ANIONS: Final = (7, 8, 9, 16, 17, 34, 35, 52, 53)
_GAP: Final = 1.25
"""Least ratio of the seventh distance to the sixth: 2.2 in a cubic perovskite, 1 around its A atoms."""
_WINDOW_FS: Final = 5000.0
_SETTLING: Final = 0.2


class Octahedra(NamedTuple):
    """The six bonds of every B atom of a perovskite; the bonded atoms stay the same through the run."""

    pair: str  # as in "Mn-O"
    time_fs: np.ndarray  # [f]
    distance: np.ndarray  # [f, b, 6] Å


class SegmentMean(NamedTuple):
    """Mean bonds in a segment of constant temperature."""

    temperature_k: float
    begin_fs: float
    end_fs: float
    distance: np.ndarray  # [3] Å: short, middle, long


def octahedra(trajectory: Trajectory) -> Octahedra | None:
    """Follow the bonds that the B atoms have in the first frame; a bond is never exchanged for a shorter one.

    Args:
      trajectory: frames of any cell; a bond vector may change by less than half the reduced cell between the first
        and any other frame.

    Returns:
      Distances of every bond, or None if the crystal has no such atoms.
    """
    numbers = trajectory.numbers
    _, change = minkowski_reduce(trajectory.cells[0])
    cells = change @ trajectory.cells
    scaled = trajectory.positions @ np.linalg.inv(cells)
    anions = np.flatnonzero(np.isin(numbers, _ANIONS))
    metals, bonded, first = [], [], []
    for element in np.intersect1d(numbers, _METALS):
        of_element = np.flatnonzero(numbers == element)
        found = [_six(scaled[0], cells[0], int(metal), anions) for metal in of_element]
        whole = [item for item in found if item is not None]
        if len(whole) == len(found):
            metals += of_element.tolist()
            bonded += [atoms for atoms, _ in whole]
            first += [vectors for _, vectors in whole]
    if not metals:
        return None
    vectors = scaled[:, np.array(bonded)] - scaled[:, np.array(metals), None]  # [f, b, 6, 3]
    vectors -= np.round(vectors - np.array(first))
    distance = np.linalg.norm(np.einsum("fbki,fij->fbkj", vectors, cells), axis=-1)
    names = ("/".join(_symbols(numbers[np.unique(atoms)])) for atoms in (metals, np.array(bonded)))
    return Octahedra("-".join(names), trajectory.time_fs, distance)


def short_middle_long(distance: np.ndarray) -> np.ndarray:
    """Sort six bonds [..., b, 6], average the two shortest, middle and longest ones over the B atoms: [..., 3]."""
    ordered = np.sort(distance, axis=-1)
    return ordered.reshape(*ordered.shape[:-1], 3, 2).mean(axis=(-3, -1))


def mean_distances(bonds: Octahedra, begin_fs: float, end_fs: float) -> np.ndarray | None:
    """Short, middle and long distance [3] Å of the time-averaged bonds; None if there is no frame from begin to end.

    Each bond is averaged before sorting, so that thermal motion alone does not make the bonds unequal.
    """
    inside = (bonds.time_fs >= begin_fs) & (bonds.time_fs <= end_fs)
    return short_middle_long(bonds.distance[inside].mean(axis=0)) if inside.any() else None


def segment_means(bonds: Octahedra, schedule: Schedule) -> list[SegmentMean]:
    """Mean bonds in each started segment of constant temperature, without its first fifth."""
    means, last = [], float(bonds.time_fs[-1])
    ends = np.minimum(schedule.end_fs, last)
    begins = schedule.begin_fs + _SETTLING * (ends - schedule.begin_fs)
    for begin, end, (cool, warm) in zip(begins.tolist(), ends.tolist(), schedule.temperature_k, strict=True):
        distance = mean_distances(bonds, begin, end)
        if cool == warm and begin < end and distance is not None:
            means.append(SegmentMean(float(cool), begin, end, distance))
    return means


def moving_average(time_fs: np.ndarray, values: np.ndarray, window_fs: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the frames within half a window before and after.

    Args:
      time_fs: [f] fs, rising.
      values: [f, ...].
      window_fs: fs.

    Returns:
      Times [g] whose whole window lies inside the run, and the means [g, ...].
    """
    half = 0.5 * window_fs * (1.0 + 1e-9)
    slack = 1e-9 * window_fs
    kept = time_fs[(time_fs - half >= time_fs[0] - slack) & (time_fs + half <= time_fs[-1] + slack)]
    low, high = np.searchsorted(time_fs, kept - half), np.searchsorted(time_fs, kept + half)
    total = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    count = (high - low).reshape(-1, *(1,) * (values.ndim - 1))
    return kept, (total[high] - total[low]) / count


def bonds_panel(bonds: Octahedra, schedule: Schedule | None, label_time_fs: np.ndarray) -> Panel:
    """Short, middle and long bonds of the octahedra, in every frame and on average."""
    title = f"{bonds.pair} distances"
    if bonds.time_fs.size < 2:
        return Panel(title, "Fewer than two frames have been written.")
    window = _window(bonds.time_fs)
    now = short_middle_long(bonds.distance)
    middle, averaged = moving_average(bonds.time_fs, bonds.distance, window)
    mean = short_middle_long(averaged)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.8), layout="constrained")
        axes = figure.subplots()
        for i, (color, name) in enumerate(((BLUE, "short"), (GREEN, "middle"), (RED, "long"))):
            axes.plot(bonds.time_fs / 1e3, now[:, i], color=color, linewidth=0.4, alpha=0.35)
            axes.plot(middle / 1e3, mean[:, i], color=color, linewidth=1.8, label=name)
        axes.set(xlabel="time / ps", ylabel=f"{bonds.pair} distance / Å")
        _mark(axes, schedule, bonds.time_fs, label_time_fs)
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
    if np.allclose(cells, cells[0], rtol=0.0, atol=1e-7):
        return Panel(title, "The cell of this run is constant.")
    n, window = trajectory.numbers.size, _window(trajectory.time_fs)
    lengths, angles, divisors = lattice(cells, pseudo_cubic=perovskite and n == 20)
    volume = np.abs(np.linalg.det(cells))[:, None] / n
    names = [name + divisor for name, divisor in zip("abc", divisors, strict=True)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 6.4), layout="constrained")
        rows = figure.subplots(3, 1, sharex=True)
        for axes, values, labels, unit in (
            (rows[0], lengths, names, "length / Å"),
            (rows[1], volume, ["volume"], "volume per atom / Å³"),
            (rows[2], angles, ["α", "β", "γ"], "angle / °"),
        ):
            middle, mean = moving_average(trajectory.time_fs, values, window)
            for i, (label, color) in enumerate(zip(labels, (BLUE, GREEN, RED), strict=False)):
                axes.plot(trajectory.time_fs / 1e3, values[:, i], color=color, linewidth=0.4, alpha=0.35)
                axes.plot(middle / 1e3, mean[:, i], color=color, linewidth=1.8, label=label)
            axes.set_ylabel(unit)
            _mark(axes, schedule, trajectory.time_fs, label_time_fs)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        rows[2].set_xlabel("time / ps")
        cubic = " Lengths are divided as labelled, so that they are equal for a cubic crystal." if any(divisors) else ""
        caption = f"Thin: every frame. Thick: averages over {window / 1e3:.3g} ps.{cubic}"
        return Panel(title, caption, png(figure))


def lattice(cells: np.ndarray, *, pseudo_cubic: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Shape of cells.

    Args:
      cells: [f, 3, 3] Å, rows.
      pseudo_cubic: the cells are √2 x √2 x 2 cells; the longest axis of the first frame is the doubled one.

    Returns:
      Lengths [f, 3] Å, angles [f, 3] degrees, and the divisor of each length as text, "" for none.
    """
    lengths = np.linalg.norm(cells, axis=-1)
    after, last = np.roll(cells, -1, axis=1), np.roll(cells, -2, axis=1)
    cosine = np.sum(after * last, axis=-1) / (np.linalg.norm(after, axis=-1) * np.linalg.norm(last, axis=-1))
    angles = np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
    if not pseudo_cubic:
        return lengths, angles, ["", "", ""]
    doubled = np.arange(3) == np.argmax(lengths[0])
    return lengths / np.where(doubled, 2.0, np.sqrt(2.0)), angles, ["/2" if d else "/√2" for d in doubled]


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
            middle, mean = moving_average(time, values, _window(time))
            axes.plot(middle / 1e3, mean, color=GREEN, linewidth=1.8, label="moving average")
            if schedule is not None and target is not None:
                ends = np.minimum(np.stack([schedule.begin_fs, schedule.end_fs], axis=1), time[-1])
                begun = schedule.begin_fs < time[-1]
                axes.plot(ends[begun].ravel() / 1e3, _cut(schedule, target, time[-1])[begun].ravel(), color="black",
                          linestyle="--", linewidth=1.0, label="schedule")  # fmt: skip
            axes.set_ylabel(f"{name} / {unit}")
            axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, borderaxespad=0.1)
        rows[-1].set_xlabel("time / ps")
        caption = (
            f"Line and band: mean and range within stretches; averages over {_window(thermo.time_fs) / 1e3:.3g} ps."
        )
        if len(shown) == 1:
            caption += " The pressure of this run has not been logged."
        return Panel(title, caption, png(figure))


def _six(scaled: np.ndarray, cell: np.ndarray, metal: int, anions: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Atoms [6] and scaled vectors [6, 3] of the six nearest anions in a reduced cell; None if the seventh is close."""
    vectors = scaled[anions] - scaled[metal]
    vectors -= np.round(vectors)
    shifts = np.indices((5, 5, 5)).reshape(3, -1).T - 2
    images = (vectors[:, None] + shifts).reshape(-1, 3)
    distance = np.linalg.norm(images @ cell, axis=1)
    if distance.size < 7:
        return None
    order = np.argsort(distance, kind="stable")[:7]
    if distance[order[6]] < _GAP * distance[order[5]]:
        return None
    return anions[order[:6] // len(shifts)], images[order[:6]]


def _symbols(numbers: np.ndarray) -> list[str]:
    return [chemical_symbols[z] for z in np.unique(numbers)]


def _window(time_fs: np.ndarray) -> float:
    return min(_WINDOW_FS, 0.2 * float(time_fs[-1] - time_fs[0]))


def _cut(schedule: Schedule, target: np.ndarray, end_fs: float) -> np.ndarray:
    """Values [m, 2] of a schedule at the ends of its segments; the present segment ends at `end_fs`."""
    length = schedule.end_fs - schedule.begin_fs
    share = np.where(np.isfinite(length), np.clip((end_fs - schedule.begin_fs) / length, 0.0, 1.0), 0.0)
    return np.stack([target[:, 0], target[:, 0] + share * (target[:, 1] - target[:, 0])], axis=1)


def _mark(axes: Axes, schedule: Schedule | None, time_fs: np.ndarray, label_time_fs: np.ndarray) -> None:
    """Labels as ticks at the bottom, and the segments of the schedule."""
    label_ticks(axes, label_time_fs)
    mark_segments(axes, schedule, float(time_fs[-1]))
