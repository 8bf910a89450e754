"""Conformers of a dihedral and the transitions between them."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from bayes_mlff.analysis import averages, options, states, torsions
from bayes_mlff.analysis.finding import Finding
from bayes_mlff.analysis.options import Options
from bayes_mlff.analysis.replica import Replica
from bayes_mlff.analysis.torsions import CONFORMERS, Torsion
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.core.plots import BLUE, GREEN, GREY, ORANGE, RED, STYLE, png


def atoms_of(first: Replica, chosen: Options) -> tuple[tuple[int, int, int, int], str]:
    """The four atoms, and where they come from.

    Raises:
      ConfigError: if an atom is not there, or one is named twice.
      DataError: if none are given and the structure is not one ethanol molecule.
    """
    if chosen.dihedral is not None:
        n, atoms = len(first.numbers), chosen.dihedral
        if not all(0 <= i < n for i in atoms) or len(set(atoms)) != 4:
            raise ConfigError("--dihedral", list(atoms), f"four different atoms of {first.name}, 0 to {n - 1}")
        return atoms, "as told"
    found = torsions.hydroxyl(first.structure())
    if found is None:
        raise DataError(f"{first.name}: got no ethanol molecule; allowed: --dihedral with four atoms, counted from 0")
    return found, "C-C-O-H of ethanol, found by distances (--dihedral)"


def follow(replicas: list[Replica], chosen: Options) -> list[tuple[np.ndarray, Torsion]]:
    """Angle between the outer bonds [t] and torsion of each replica; see `atoms_of` for errors."""
    atoms, _ = atoms_of(replicas[0], chosen)
    angles = [torsions.chain_angles(x.positions, x.cells, x.pbc, atoms) for x in replicas]
    return [(angle, torsions.torsion(dihedral, core_deg=chosen.core_deg)) for angle, dihedral in angles]


def find(replicas: list[Replica], chosen: Options) -> Finding:
    """Populations, transitions and rates; replicas may have different lengths, times and counts add up.

    Raises:
      DataError: if times are unknown, or no dihedral is given and the structure is not one ethanol molecule.
      ConfigError: if an atom is not there.
    """
    used, said = options.whole(replicas, chosen)
    atoms, source = atoms_of(used[0], chosen)
    found = follow(used, chosen)
    symbols = "-".join(used[0].symbols(atoms))
    known = np.concatenate([torsion.conformer[torsion.conformer >= 0] for _, torsion in found])
    shares = {name: float(np.mean(known == i)) if known.size else np.nan for i, name in enumerate(CONFORMERS)}
    pairs = [(int(a), int(b)) for _, t in found for a, b in zip(t.changes.before, t.changes.after, strict=True)]
    kinds = {f"{CONFORMERS[a]} to {CONFORMERS[b]}": pairs.count((a, b)) for a in range(3) for b in range(3) if a != b}
    observed = sum(float(each.times()[-1] - each.times()[0]) for each in used)
    rate = averages.rate(len(pairs), observed)
    stays = [
        states.residences(t.changes.crossed, len(t.angle_deg)) * each.interval_fs()
        for each, (_, t) in zip(used, found, strict=True)
    ]
    stay = np.concatenate(stays)
    moving = sum(float(np.sum(t.changes.entered - t.changes.left)) * x.interval_fs()
                 for x, (_, t) in zip(used, found, strict=True))  # fmt: skip
    assumed = [
        said,
        f"dihedral {symbols}, atoms {' '.join(map(str, atoms))} ({source})",
        f"anti at 180°, gauche at ±60°; a conformer is entered within {chosen.core_deg:g}° of its centre and left when "
        "another is entered (--core-deg)",
        f"{len(used)} trajectories, {observed / 1e3:.4g} ps in all; they may differ in length",
        "the interval of the rate is that of independent transitions (Poisson, exact)",
    ]
    rows = [(name, f"{share:.1%} of the time") for name, share in shares.items()]
    rows += [
        ("transitions", f"{len(pairs)}: {', '.join(f'{k} {v}' for k, v in kinds.items() if v) or 'none'}"),
        ("rate", rate.said("ps")),
        ("in transition", f"{moving / observed:.1%} of the time, from one conformer's core to another's"),
    ]
    if stay.size:
        rows.append(("whole stays", f"{stay.size}, mean {stay.mean() / 1e3:.3g} ps"))
    results = {
        "atoms": atoms,
        "populations": shares,
        "transitions": kinds,
        "transition_times_fs": [x.times()[t.changes.crossed] for x, (_, t) in zip(used, found, strict=True)],
        "rate_per_ps": rate.per_ps,
        "rate_interval_95_per_ps": rate.interval_per_ps,
        "share_of_time_in_transition": moving / observed,
        "whole_stays_fs": stay,
    }
    return Finding("dihedral", f"Conformers of {symbols}", rows, assumed, _table(used, found), results,
                   _figure(used, found, symbols))  # fmt: skip


def _table(used: list[Replica], found: list[tuple[np.ndarray, Torsion]]) -> dict[str, Any]:
    return {
        "trajectory": np.concatenate([np.full(len(t.angle_deg), i) for i, (_, t) in enumerate(found)]),
        "time_fs": np.concatenate([each.times() for each in used]),
        "dihedral_deg": np.concatenate([t.angle_deg for _, t in found]),
        "angle_of_outer_bonds_deg": np.concatenate([angle for angle, _ in found]),
        "conformer": np.concatenate([np.array([*CONFORMERS, "unknown"])[t.conformer] for _, t in found]),
    }


def _figure(used: list[Replica], found: list[tuple[np.ndarray, Torsion]], symbols: str) -> bytes:
    shown = list(zip(used, found, strict=True))[:4]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 0.6 + 2.4 * len(shown)), layout="constrained")
        grid = figure.subplots(len(shown), 2, squeeze=False, width_ratios=[4, 1], sharey=True)
        for (axes, side), (each, (_, torsion)) in zip(grid, shown, strict=True):
            time = each.times() / 1e3
            for i, (name, color) in enumerate(zip((*CONFORMERS, "unknown"), (BLUE, GREEN, RED, GREY), strict=True)):
                of = torsion.conformer == (i if i < 3 else -1)
                if of.any():
                    axes.plot(time[of], torsion.angle_deg[of], ".", color=color, markersize=2.5, label=name)
                    bins = np.linspace(-180, 180, 73)
                    side.hist(torsion.angle_deg[of], bins, orientation="horizontal", color=color, alpha=0.6)
            for at in time[torsion.changes.crossed]:
                axes.axvline(at, color=ORANGE, linewidth=0.9, zorder=0)
            axes.set(ylabel=f"{symbols} / °", ylim=(-180, 180), yticks=range(-180, 181, 60))
            axes.set_title(f"{each.name}: {torsion.changes.crossed.size} transitions (orange)", fontsize=8.5)
            side.set_xlabel("frames")
        grid[-1, 0].set_xlabel("time / ps")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, markerscale=3)
        return png(figure)
