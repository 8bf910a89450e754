"""Bond lengths by rank and coordination numbers, with moving averages."""

from typing import Any, Final, NamedTuple

import matplotlib
import numpy as np
from ase.data import atomic_numbers
from matplotlib.figure import Figure

from bayes_mlff.analysis import averages, bonds, images, options, replica
from bayes_mlff.analysis.finding import Finding
from bayes_mlff.analysis.options import Options
from bayes_mlff.analysis.replica import Replica
from bayes_mlff.core.errors import DataError
from bayes_mlff.core.plots import BLUE, GREEN, GREY, RED, STYLE, png

_COLORS: Final = (BLUE, GREEN, RED)
_MOST_RANKS: Final = 12
_MOST_PAIRS: Final = 6
_BROKEN: Final = 0.01
"""Share of frames in which a bond is longer than the cutoff, above which bonds are not followed."""


class _Pair(NamedTuple):
    """One kind of bonds, averaged over the replicas."""

    name: str
    cutoff: float  # Å
    source: str  # of the cutoff
    centres: int
    distance: np.ndarray  # [t, b, k] Å, followed
    now: np.ndarray  # [t, ranks] Å, sorted in every frame
    coordination: np.ndarray  # [t]
    broken: float  # share of the followed bonds beyond the cutoff
    ranks: list[str]


def find(replicas: list[Replica], chosen: Options) -> Finding:
    """Bond lengths and coordination of each pair of elements that has bonds; replicas must have one length.

    Raises:
      DataError: if times are unknown, replicas differ in length, or there are no bonds.
      ConfigError: if an element is not there.
    """
    replica.check_equal_lengths(replicas)
    used, said = options.whole(replicas, chosen)
    first = used[0]
    time = first.times() - first.times()[0]
    window = averages.window_fs(time)
    if first.bulk and chosen.pairs is None and chosen.cutoff is None and (special := _octahedra(used)) is not None:
        pairs = [special]
    else:
        pairs = [made for a, b in chosen.pairs or first.pairs() if (made := _pair(used, a, b, chosen)) is not None]
    if not pairs:
        raise DataError(f"{first.name}: got no bonds in the first frame; allowed: --pairs, with a longer --cutoff")
    left_out = (
        "" if len(pairs) <= _MOST_PAIRS else f"; left out: {', '.join(p.name for p in pairs[_MOST_PAIRS:])} (--pairs)"
    )
    pairs = pairs[:_MOST_PAIRS]
    assumed = [
        said,
        *(f"{p.name}: bonds up to {p.cutoff:.3f} Å ({p.source}); {len(p.ranks)} ranks{_follow(p)}" for p in pairs),
        f"ranks: bonds of an atom from short to long, averaged over atoms; moving averages over {window / 1e3:.3g} ps"
        + left_out,
    ]
    resolved = min(images.resolved_radius(each.cells, each.pbc) for each in used)
    if any(p.cutoff > resolved for p in pairs):
        assumed.append(f"beyond {resolved:.3f} Å an atom that is bonded to two images of another counts once")
    if len(used) > 1:
        assumed.append(f"each frame averaged over {len(used)} replicas")
    table: dict[str, np.ndarray] = {"time_fs": time}
    results: dict[str, Any] = {}
    rows = []
    for p in pairs:
        table |= {f"{p.name}_{rank}_angstrom": p.now[:, i] for i, rank in enumerate(p.ranks)}
        table[f"{p.name}_coordination"] = p.coordination
        mean = averages.block_mean([p.now])
        lengths = _mean_bonds(p)
        around = averages.block_mean([p.coordination])
        results[p.name] = {
            "cutoff_angstrom": p.cutoff,
            "centres": p.centres,
            "ranks": p.ranks,
            "mean_by_rank_in_frames_angstrom": mean.value,
            "standard_error_angstrom": mean.error,
            "mean_bonds_by_rank_angstrom": lengths,
            "coordination": float(around.value),
            "coordination_standard_error": float(around.error),
            "share_of_broken_bonds": p.broken,
        }
        by_rank = " ".join(f"{x:.3f}" for x in (lengths if lengths is not None else mean.value))
        rows.append((p.name, f"{by_rank} Å; coordination {float(around.value):.2f} ± {float(around.error):.2f}"))
    return Finding("bonds", "Bond lengths and coordination", rows, assumed, table, {"pairs": results},
                   _figure(time, pairs, window))  # fmt: skip


def _pair(used: list[Replica], centre: str, other: str, chosen: Options) -> _Pair | None:
    """Bonds of a pair of elements; None if there are none in the first frame."""
    first = used[0]
    centres, others = first.of(centre, "--pairs"), first.of(other, "--pairs")
    numbers = int(first.numbers[centres[0]]), int(first.numbers[others[0]])
    limit, source = bonds.cutoff(*numbers), f"{bonds.REACH} times the sum of covalent radii; --cutoff"
    if chosen.cutoff is not None:
        limit, source = chosen.cutoff, "as told"
    all_of = [bonds.neighbour_distances(x.positions, x.cells, x.pbc, centres, others) for x in used]
    bonded = (all_of[0][0] <= limit).sum(axis=-1)
    if not bonded.any():
        return None
    count = min(int(bonded[bonded > 0].min()), _MOST_RANKS)
    of_bonded = [distance[:, bonded > 0] for distance in all_of]
    followed = [bonds.kept(distance, count) for distance in of_bonded]
    now = np.mean([bonds.by_rank(bonds.nearest(distance, count), count) for distance in of_bonded], axis=0)
    coordination = np.mean([(distance <= limit).sum(axis=-1).mean(axis=-1) for distance in all_of], axis=0)
    broken = float(np.mean([(distance > limit).mean() for distance in followed]))
    ranks = [str(i + 1) for i in range(count)]
    joined = np.concatenate(followed, axis=1)
    return _Pair(f"{centre}-{other}", limit, source, int((bonded > 0).sum()), joined, now, coordination, broken, ranks)


def _octahedra(used: list[Replica]) -> _Pair | None:
    """The octahedra of a perovskite, whose six bonds are short, middle and long in pairs."""
    made = [bonds.octahedra(x.numbers, x.times(), x.positions, x.cells) for x in used]
    found = [each for each in made if each is not None]
    if len(found) != len(used) or len({each.distance.shape for each in found}) != 1:
        return None
    centres, ends = ([atomic_numbers[s] for s in part.split("/")] for part in found[0].pair.split("-"))
    limit = max(bonds.cutoff(a, b) for a in centres for b in ends)
    now = np.mean([bonds.short_middle_long(each.distance) for each in found], axis=0)
    around = np.mean([(each.distance <= limit).sum(axis=-1).mean(axis=-1) for each in found], axis=0)
    broken = float(np.mean([(each.distance > limit).mean() for each in found]))
    joined = np.concatenate([each.distance for each in found], axis=1)
    source = f"{bonds.REACH} times the sum of covalent radii; the six anions of the first frame"
    return _Pair(
        found[0].pair, limit, source, joined.shape[1], joined, now, around, broken, ["short", "middle", "long"]
    )


def _follow(p: _Pair) -> str:
    if p.broken > _BROKEN:
        return f"; bonds of the first frame are broken {p.broken:.1%} of the time, so that they are not followed"
    return ""


def _mean_bonds(p: _Pair) -> np.ndarray | None:
    """Lengths by rank of time-averaged bonds, which thermal motion alone does not make unequal; None if broken."""
    return None if p.broken > _BROKEN else bonds.by_rank(p.distance.mean(axis=0), len(p.ranks))


def _figure(time: np.ndarray, pairs: list[_Pair], window: float) -> bytes:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 0.5 + 2.3 * len(pairs)), layout="constrained")
        grid = figure.subplots(len(pairs), 2, squeeze=False, sharex=True, width_ratios=[2, 1])
        for (left, right), p in zip(grid, pairs, strict=True):
            if p.broken > _BROKEN:
                middle, mean = averages.moving_average(time, p.now, window)
            else:
                middle, series = averages.moving_average(time, p.distance, window)
                mean = bonds.by_rank(series, len(p.ranks))
            shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(p.ranks)))
            colors = _COLORS if len(p.ranks) <= len(_COLORS) else shades
            for i, (rank, color) in enumerate(zip(p.ranks, colors, strict=False)):
                left.plot(time / 1e3, p.now[:, i], color=color, linewidth=0.4, alpha=0.35)
                left.plot(middle / 1e3, mean[:, i], color=color, linewidth=1.6, label=rank)
            left.set_ylabel(f"{p.name} / Å")
            if len(p.ranks) > 1:
                left.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="rank", fontsize=7.5)
            right.plot(time / 1e3, p.coordination, color=GREY, linewidth=0.5, alpha=0.6)
            middle, mean = averages.moving_average(time, p.coordination, window)
            right.plot(middle / 1e3, mean, color=BLUE, linewidth=1.6)
            right.set(ylabel="coordination", ylim=(0, max(1.0, 1.1 * float(p.coordination.max()))))
        for axes in grid[-1]:
            axes.set_xlabel("time / ps")
        return png(figure)
