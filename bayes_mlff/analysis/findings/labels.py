"""Rate of labels around events against elsewhere."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from bayes_mlff.analysis import label_rates, options
from bayes_mlff.analysis.finding import Finding
from bayes_mlff.analysis.findings import dihedrals, hops
from bayes_mlff.analysis.options import Options
from bayes_mlff.analysis.replica import Replica
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.core.plots import BLUE, ORANGE, RED, STYLE, png


def find(replicas: list[Replica], chosen: Options) -> Finding:
    """Labels around transitions, hops or given times; replicas may have different lengths, times and counts add up.

    Raises:
      DataError: if there are no labels, times or events, or the windows cover everything.
      ConfigError: if an atom or element is not there.
    """
    without = [each.name for each in replicas if each.label_fs is None]
    if without:
        raise DataError(f"{without[0]}: got no labels; allowed: for their rate, directories of runs with a dataset")
    used, said = options.whole(replicas, chosen)
    events, source = _events(used, chosen)
    spans, inside, outside, inside_fs, outside_fs = [], 0, 0, 0.0, 0.0
    late = 0
    for each, times in zip(used, events, strict=True):
        begin, end = float(each.times()[0]), float(each.times()[-1])
        windows = label_rates.windows(times, chosen.window_fs, begin, end)
        labels = np.asarray(each.label_fs)
        seen = labels[(labels >= begin) & (labels <= end)]
        late += labels.size - seen.size
        within, length = label_rates.count_inside(seen, windows), float(np.sum(np.diff(windows, axis=1)))
        spans.append(windows)
        inside, outside = inside + within, outside + seen.size - within
        inside_fs, outside_fs = inside_fs + length, outside_fs + end - begin - length
    if inside_fs <= 0.0:
        raise DataError(f"{used[0].name}: got no events ({source}); allowed: a trajectory with some, or --events-fs")
    if outside_fs <= 0.0:
        raise ConfigError("--window-fs", chosen.window_fs, "windows that do not cover the whole trajectory")
    test = label_rates.compare(inside, inside_fs, outside, outside_fs)
    unasked = sum(each.unasked for each in used)
    assumed = [
        said,
        f"events: {source}, {sum(x.size for x in events)} of them; windows of {chosen.window_fs:g} fs before and "
        "after, overlapping ones joined (--window-fs)",
        f"counted: labels that a trigger asked for; not {unasked} initial ones and audits, nor {late} before or after "
        "the frames",
        "exact test that both rates are equal, if labels are independent; labels soon after the begin of a run are "
        "more frequent anyway (--skip-ps)",
    ]
    share = inside_fs / (inside_fs + outside_fs)
    total = inside + outside
    rows = [
        ("around events", f"{inside} of {total} labels in {share:.1%} of the time"),
        ("rate there / elsewhere", f"{test.ratio:.3g}, 95 % interval {test.lower:.3g} to {test.upper:.3g}"),
        ("p value", f"{test.p_value:.3g}"),
    ]
    results = test._asdict() | {"share_of_time": share, "events_fs": events, "window_fs": chosen.window_fs}
    table = {
        "trajectory": np.concatenate([np.full(np.asarray(x.label_fs).size, i) for i, x in enumerate(used)]),
        "label_fs": np.concatenate([np.asarray(x.label_fs) for x in used]),
        "around_event": np.concatenate([_inside(np.asarray(x.label_fs), w) for x, w in zip(used, spans, strict=True)]),
    }
    image = _figure(used, events, spans)
    return Finding("labels", "Labels around events", rows, assumed, table, results, image)


def _inside(times: np.ndarray, windows: np.ndarray) -> np.ndarray:
    return np.array([label_rates.count_inside(times[i : i + 1], windows) > 0 for i in range(times.size)], bool)


def _events(used: list[Replica], chosen: Options) -> tuple[list[np.ndarray], str]:
    """Times of the events of each replica, fs, and what they are."""
    if chosen.events_fs is not None:
        return [np.array(chosen.events_fs, np.float64)] * len(used), "given times"
    try:
        found = [torsion.changes.crossed for _, torsion in dihedrals.follow(used, chosen)]
        source = "transitions of the dihedral"
    except DataError:
        try:
            found = [np.array([h.crossed for h in each.hops], int) for each in hops.follow(used, chosen)]
            source = "hops"
        except DataError as error:
            message = f"{used[0].name}: got no events; allowed: --dihedral, --mobile or --events-fs"
            raise DataError(message) from error
    return [each.times()[frames] for each, frames in zip(used, found, strict=True)], source


def _figure(used: list[Replica], events: list[np.ndarray], spans: list[np.ndarray]) -> bytes:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 1.4 + 1.1 * min(len(used), 6)), layout="constrained")
        rows = figure.subplots(min(len(used), 6), 1, squeeze=False)[:, 0]
        for axes, each, times, windows in zip(rows, used, events, spans, strict=False):
            for begin, end in windows / 1e3:
                axes.axvspan(begin, end, color=ORANGE, alpha=0.3, linewidth=0)
            axes.plot(times / 1e3, np.full(times.size, 0.75), "v", color=RED, markersize=5, label="events")
            labels = np.asarray(each.label_fs)
            axes.plot(labels / 1e3, np.full(labels.size, 0.3), "|", color=BLUE, markersize=14, label="labels")
            axes.set(ylim=(0, 1), yticks=[], xlim=(each.times()[0] / 1e3, each.times()[-1] / 1e3))
            axes.set_title(each.name, fontsize=8.5)
        rows[-1].set_xlabel("time / ps")
        handles, names = rows[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=2)
        return png(figure)
