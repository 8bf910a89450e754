"""Radial distribution functions by pair of elements."""

from typing import Final

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from bayes_mlff.analysis import images, options, radial, replica
from bayes_mlff.analysis.finding import Finding
from bayes_mlff.analysis.options import Options
from bayes_mlff.analysis.radial import Pairs, Radial
from bayes_mlff.analysis.replica import Replica
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.plots import BLUE, STYLE, png

MOST_FRAMES: Final = 1000
"""Largest number of frames of each trajectory; neighbours in time add little."""


def find(replicas: list[Replica], chosen: Options) -> Finding:
    """Radial distribution functions of all frames together; replicas may have different lengths.

    Raises:
      ConfigError: if an element is not there, or no pair of atoms is left.
    """
    used, said = options.averaged(replicas, chosen)
    used = [replica.evenly(each, MOST_FRAMES) for each in used]
    first = used[0]
    edges, reach = _edges(used, chosen)
    names = chosen.pairs or first.pairs()
    found: dict[str, Radial] = {}
    for one, other in names:
        pairs = Pairs(first.of(one, "--pairs"), first.of(other, "--pairs"))
        if one == other and len(pairs.first) < 2 and not (first.bulk and edges[-1] > _resolved(used)):
            continue
        series, cells = [each.positions for each in used], [each.cells for each in used]
        found[f"{one}-{other}"] = radial.distribution(series, cells, first.pbc, pairs, edges)
    if not found:
        raise ConfigError("--pairs", [f"{a}-{b}" for a, b in names], "elements of which there are two atoms")
    empty = [pair for pair, each in found.items() if not each.density.any()]
    found = {pair: each for pair, each in found.items() if pair not in empty}
    if not found:
        raise ConfigError("--r-max", float(edges[-1]), "a distance within which there are atoms")
    frames = sum(len(each.positions) for each in used)
    bulk = first.bulk
    assumed = [
        said,
        f"{frames} frames, at most {MOST_FRAMES} evenly spaced ones of each trajectory, which may differ in length",
        reach,
        "normalised by an ideal gas of as many atoms in the same cells"
        if bulk
        else "not periodic in all directions, so without a volume: density of the distances of all pairs, not g(r)",
        "standard errors from 5 blocks of each trajectory",
    ]
    if empty:
        assumed.append(f"nothing within {edges[-1]:.3g} Å: {', '.join(empty)}")
    table = {"r_angstrom": next(iter(found.values())).r}
    for pair, each in found.items():
        table |= {pair: each.density, f"{pair}_error": each.error, f"{pair}_neighbours": each.neighbours}
    quantity = "g(r)" if bulk else "density_per_angstrom"
    peaks = {pair: peak for pair, each in found.items() if (peak := radial.first_peak(each)) is not None}
    results = {pair: {"first_peak_angstrom": at, f"first_peak_{quantity}": high} for pair, (at, high) in peaks.items()}
    unit = "" if bulk else " 1/Å"
    rows = [(pair, f"first peak at {at:.3f} Å, {high:.3g}{unit}") for pair, (at, high) in peaks.items()]
    title = "Radial distribution functions" if bulk else "Distances of pairs"
    everything = {"pairs": results, "curves": {pair: each._asdict() for pair, each in found.items()}}
    return Finding("rdf", title, rows, assumed, table, everything, _figure(found, bulk=bulk))


def _resolved(used: list[Replica]) -> float:
    return min(images.resolved_radius(each.cells, each.pbc) for each in used)


def _edges(used: list[Replica], chosen: Options) -> tuple[np.ndarray, str]:
    """Edges of the bins, and where the largest distance comes from."""
    limit, r_max = _resolved(used), chosen.r_max
    if r_max is None and np.isfinite(limit):
        r_max, said = limit, f"up to {limit:.3f} Å, within which only the nearest image can be (--r-max)"
    elif r_max is None:
        size = max(float(np.linalg.norm(np.ptp(x.positions, axis=1), axis=-1).max()) for x in used)
        r_max, said = min(size, 20.0) + chosen.bin_width, "up to the size of the molecule, at most 20 Å (--r-max)"
    elif r_max <= limit:
        said = f"up to {r_max:g} Å as told"
    else:
        said = (
            f"up to {r_max:g} Å as told; beyond {limit:.3f} Å periodic images are counted, which repeat "
            "the cell and are no independent neighbours"
        )
    count = max(1, int(r_max / chosen.bin_width + 1e-9))
    return chosen.bin_width * np.arange(count + 1), said


def _figure(found: dict[str, Radial], *, bulk: bool) -> bytes:
    with matplotlib.rc_context(STYLE):
        columns = min(3, len(found))
        lines = -(-len(found) // columns)
        figure = Figure(figsize=(max(3.1 * columns, 4.4), 0.6 + 2.1 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
        for axes, (pair, each) in zip(grid.ravel(), found.items(), strict=False):
            low, high = each.density - each.error, each.density + each.error
            axes.fill_between(each.r, low, high, color=BLUE, alpha=0.3, linewidth=0)
            axes.plot(each.r, each.density, color=BLUE)
            axes.set(title=pair, ylim=(0, None))
            if bulk:
                axes.axhline(1.0, color="black", linewidth=0.7, linestyle=":")
        for axes in grid.ravel()[len(found) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("g(r)" if bulk else "density / Å⁻¹")
        for axes in grid[-1]:
            axes.set_xlabel("r / Å")
        return png(figure)
