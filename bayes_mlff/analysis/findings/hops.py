"""Hops of a mobile species: how often, how long between them, and what the hosts do meanwhile."""

from typing import Final

import matplotlib
import numpy as np
from ase.data import atomic_numbers
from matplotlib.figure import Figure

from bayes_mlff.analysis import averages, bonds, hopping, options
from bayes_mlff.analysis.finding import Finding
from bayes_mlff.analysis.hopping import Hopping
from bayes_mlff.analysis.options import Options
from bayes_mlff.analysis.replica import Replica
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.core.plots import BLUE, GREY, ORANGE, RED, STYLE, png

_MOST_TRACES: Final = 12


def species(first: Replica, chosen: Options) -> tuple[str, tuple[str, ...], str]:
    """Mobile element, elements of its hosts, and where they come from.

    Raises:
      ConfigError: if an element is not there, a host is mobile, or there are fewer than two hosts.
      DataError: if none is told, and this is not hydrogen in a crystal.
    """
    mobile, said = chosen.mobile, "as told"
    if mobile is None:
        if not first.pbc.any() or "H" not in first.elements():
            raise DataError(f"{first.name}: no hydrogen in a crystal; allowed: --mobile ELEMENT")
        mobile, said = "H", "hydrogen in a crystal (--mobile)"
    first.of(mobile, "--mobile")
    hosts = chosen.hosts
    if hosts is None:
        others = tuple(e for e in first.elements() if e != mobile)
        anions = tuple(e for e in others if atomic_numbers[e] in bonds.ANIONS)
        hosts = anions or others
        said += "; hosts: its anions (--hosts)" if anions else "; hosts: all others (--hosts)"
    if mobile in hosts:
        raise ConfigError("--hosts", list(hosts), f"elements other than the mobile {mobile}")
    count = sum(len(first.of(host, "--hosts")) for host in hosts)
    if count < 2:
        raise ConfigError("--hosts", list(hosts), f"at least two atoms; {first.name} has {count}")
    return mobile, hosts, said


def follow(replicas: list[Replica], chosen: Options) -> list[Hopping]:
    """Hops in each replica; see `species` for errors."""
    mobile, hosts, _ = species(replicas[0], chosen)
    atoms = replicas[0].of(mobile, "--mobile")
    at = np.sort(np.concatenate([replicas[0].of(host, "--hosts") for host in hosts]))
    return [hopping.hopping(x.positions, x.cells, x.pbc, atoms, at, margin=chosen.margin) for x in replicas]


def find(replicas: list[Replica], chosen: Options) -> Finding:
    """Hops of all replicas, which may have different lengths; times and counts add up.

    Raises:
      DataError: if times are unknown, or no species is told and this is not hydrogen in a crystal.
      ConfigError: if an element is not there.
    """
    used, said = options.whole(replicas, chosen)
    mobile, hosts, source = species(used[0], chosen)
    found = follow(used, chosen)
    atoms = len(used[0].of(mobile, "--mobile"))
    interval = used[0].interval_fs()
    half = max(1, round(chosen.profile_fs / interval))
    profile = np.concatenate(
        [hopping.host_distance(x.positions, x.cells, x.pbc, f.hops, half) for x, f in zip(used, found, strict=True)]
    )
    observed = sum(float(each.times()[-1] - each.times()[0]) for each in used) * atoms
    hops = [hop for each in found for hop in each.hops]
    back = sum(hop.back for hop in hops)
    rate = averages.rate(len(hops), observed)
    stay = np.concatenate([f.residence * x.interval_fs() for x, f in zip(used, found, strict=True)])
    known = np.isfinite(profile).sum(axis=0)
    mean = np.nansum(profile, axis=0) / np.maximum(known, 1) if hops else np.full(2 * half + 1, np.nan)
    assumed = [
        said,
        f"{mobile} ({atoms} atoms) between {', '.join(hosts)} ({source})",
        f"another host takes over when it is nearer than all others by {chosen.margin:g} Å (--margin); the time of a "
        "hop is when it became the nearest",
        f"{len(used)} trajectories, {observed / 1e3:.4g} ps times atoms in all; they may differ in length",
        "the interval of the rate is that of independent hops (Poisson, exact); hops straight back are not independent",
        f"host distances every {interval:g} fs, {half * interval:g} fs before and after a hop (--profile-fs)",
    ]
    rows = [
        ("hops", f"{len(hops)}, {back} of them straight back to the host before"),
        ("rate", rate.said("atom and ps")),
    ]
    if stay.size:
        middle = f"median {np.median(stay):.4g} fs, mean {stay.mean():.4g} fs"
        rows.append(("stays between hops", f"{stay.size}, {middle}; the first and last of an atom not counted"))
    if hops:
        rows.append(("distance of the hosts", f"{mean[half]:.3f} Å at the hop, {mean[0]:.3f} Å before"))
    results = {
        "mobile": mobile,
        "hosts": hosts,
        "hops": [[_row(each, hop) for hop in f.hops] for each, f in zip(used, found, strict=True)],
        "count": len(hops),
        "straight_back": back,
        "rate_per_atom_and_ps": rate.per_ps,
        "rate_interval_95_per_atom_and_ps": rate.interval_per_ps,
        "stays_fs": stay,
        "profile": {
            "time_fs": interval * np.arange(-half, half + 1),
            "mean_host_distance_angstrom": mean,
            "hops": known,
        },
    }
    title = f"Hops of {mobile} between {', '.join(hosts)}"
    return Finding("hops", title, rows, assumed, _table(used, found), results, _figure(used, found, profile, interval))


def _row(each: Replica, hop: hopping.Hop) -> dict[str, float | int | bool]:
    time = each.times()
    return {
        "time_fs": float(time[hop.crossed]),
        "complete_fs": float(time[hop.entered]),
        "atom": hop.atom,
        "from": hop.before,
        "to": hop.after,
        "straight_back": hop.back,
    }


def _table(used: list[Replica], found: list[Hopping]) -> dict[str, np.ndarray]:
    rows = [(i, *_row(x, hop).values()) for i, (x, f) in enumerate(zip(used, found, strict=True)) for hop in f.hops]
    names = ("trajectory", "time_fs", "complete_fs", "atom", "from", "to", "straight_back")
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return {name: np.array(column) for name, column in zip(names, columns, strict=True)}


def _figure(used: list[Replica], found: list[Hopping], profile: np.ndarray, interval: float) -> bytes:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        traces = [(x, f.host[:, i]) for x, f in zip(used, found, strict=True) for i in range(f.host.shape[1])]
        hosts = np.unique(np.concatenate([host[host >= 0] for _, host in traces]))
        for each, host in traces[:_MOST_TRACES]:
            place = np.where(host >= 0, np.searchsorted(hosts, host), np.nan)
            left.step(each.times() / 1e3, place, where="post", linewidth=1.0, alpha=0.8)
        if hosts.size <= 20:
            names = [f"{symbol}{h}" for symbol, h in zip(used[0].symbols(hosts.tolist()), hosts, strict=True)]
            left.set_yticks(range(hosts.size), names)
        more = f", the first {_MOST_TRACES}" if len(traces) > _MOST_TRACES else ""
        left.set_title(f"each line: one mobile atom{more}", fontsize=8.5)
        left.set(xlabel="time / ps", ylabel="host" if hosts.size <= 20 else "number of the host")
        time = interval * (np.arange(profile.shape[1]) - profile.shape[1] // 2)
        if len(profile):
            right.plot(time, profile[:100].T, color=GREY, linewidth=0.5, alpha=0.5)
            count = np.isfinite(profile).sum(axis=0)
            mean = np.nanmean(np.where(count > 0, profile, 0.0), axis=0)
            right.plot(time, mean, color=BLUE, linewidth=2.0, label=f"mean of {len(profile)} hops")
            if len(profile) > 1:
                error = np.nanstd(np.where(count > 0, profile, 0.0), axis=0) / np.sqrt(np.maximum(count - 1, 1))
                right.fill_between(time, mean - error, mean + error, color=BLUE, alpha=0.3, linewidth=0)
            right.axvline(0.0, color=RED, linewidth=0.8, linestyle="--")
            right.legend()
        else:
            right.text(0.5, 0.5, "no hops", transform=right.transAxes, ha="center", color=ORANGE)
        right.set(xlabel="time from the hop / fs", ylabel="distance of the two hosts / Å")
        return png(figure)
