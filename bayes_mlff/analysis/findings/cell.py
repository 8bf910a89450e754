"""Lattice parameters along the trajectories."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from bayes_mlff.analysis import averages, bonds, lattice, options, replica
from bayes_mlff.analysis.finding import Finding
from bayes_mlff.analysis.options import Options
from bayes_mlff.analysis.replica import Replica
from bayes_mlff.core.errors import DataError
from bayes_mlff.core.plots import BLUE, GREEN, RED, STYLE, png


def find(replicas: list[Replica], chosen: Options) -> Finding:
    """Lengths, angles and volume per atom, averaged over replicas, which must have one length.

    Raises:
      DataError: if it is no crystal, its cell is constant, times are unknown, or replicas differ in length.
    """
    if not replicas[0].bulk:
        raise DataError(
            f"{replicas[0].name}: not periodic in all directions; allowed: for lattice parameters, a crystal"
        )
    if all(lattice.constant(each.cells) for each in replicas):
        raise DataError(f"{replicas[0].name}: the cell is constant; allowed: for lattice parameters, one that moves")
    replica.check_equal_lengths(replicas)
    used, said = options.whole(replicas, chosen)
    first = used[0]
    n, time = len(first.numbers), first.times() - first.times()[0]
    window = averages.window_fs(time)
    perovskite = n == 20 and bonds.octahedra(first.numbers, time[:1], first.positions[:1], first.cells[:1]) is not None
    shapes = [lattice.lattice(each.cells, pseudo_cubic=perovskite) for each in used]
    volume = np.mean([np.abs(np.linalg.det(each.cells)) / n for each in used], axis=0)
    lengths, angles = (np.mean([getattr(s, kind) for s in shapes], axis=0) for kind in ("lengths", "angles"))
    columns = {f"{name}_angstrom": lengths[:, i] for i, name in enumerate(shapes[0].names)}
    columns |= {f"{name}_deg": angles[:, i] for i, name in enumerate("αβγ")}
    columns["volume_per_atom_angstrom3"] = volume
    means = {name: averages.block_mean([values]) for name, values in columns.items()}
    assumed = [said, f"moving averages over {window / 1e3:.3g} ps; standard errors from 5 blocks"]
    if perovskite:
        assumed.append("lengths divided by √2 and 2: 20 atoms of a perovskite, whose longest axis is the doubled one")
    if len(used) > 1:
        assumed.append(f"each frame averaged over {len(used)} replicas")
    rows = [(_name(name), f"{float(m.value):.5g} ± {float(m.error):.2g} {_unit(name)}") for name, m in means.items()]
    results = {name: {"mean": float(m.value), "standard_error": float(m.error)} for name, m in means.items()}
    return Finding("lattice", "Lattice parameters", rows, assumed, {"time_fs": time, **columns}, results,
                   _figure(time, columns, window))  # fmt: skip


def _name(column: str) -> str:
    return "volume per atom" if column.startswith("volume") else column.rpartition("_")[0]


def _unit(column: str) -> str:
    return {"angstrom": "Å", "deg": "°", "angstrom3": "Å³"}[column.rpartition("_")[2]]


def _figure(time: np.ndarray, columns: dict[str, Any], window: float) -> bytes:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 6.2), layout="constrained")
        grid = figure.subplots(3, 1, sharex=True)
        for axes, unit, label in zip(grid, ("Å", "Å³", "°"), ("length", "volume per atom", "angle"), strict=True):
            shown = {_name(name): values for name, values in columns.items() if _unit(name) == unit}
            for color, (name, values) in zip((BLUE, GREEN, RED), shown.items(), strict=False):
                middle, mean = averages.moving_average(time, values, window)
                axes.plot(time / 1e3, values, color=color, linewidth=0.4, alpha=0.35)
                axes.plot(middle / 1e3, mean, color=color, linewidth=1.8, label=name)
            axes.set_ylabel(f"{label} / {unit}")
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        grid[-1].set_xlabel("time / ps")
        return png(figure)
