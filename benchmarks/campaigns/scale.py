"""How campaigns scale, by simulation with planted costs: walker-ps an hour, and how busy device and nodes are.

    python -m benchmarks.campaigns.scale OUT.json [--measured CAMPAIGN_DIR]

Nothing is learnt or moved here. Walkers take steps until they request a label, with a probability that falls with the
number of labels that their posterior knows; steps, updates and labels take the times that are planted below. Compared
are a campaign in `rounds`, one by `arrival`, and the same walkers as runs one after the other, each with a posterior of
its own and one label at a time. `--measured` adds what a real campaign took, from its events.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.core.durable import write_whole

HOUR_S: Final = 3600.0


class Costs(NamedTuple):
    """Planted costs and rates."""

    step_s: float = 2e-3  # of one walker; on a device that is not full many take as long
    full_at: int = 256  # walkers that fill the device
    update_s: float = 20.0
    label_s: float = 120.0
    timestep_fs: float = 0.5
    length_ps: float = 10.0
    chunk: int = 100  # steps
    first_rate: float = 0.1  # requests per step before anything is learnt
    halving: float = 2.0  # labels after which the rate is a quarter of it
    audit_ps: float = 1.0

    def rate(self, known: float) -> float:
        """Probability of a request in one step."""
        return self.first_rate / (1.0 + known / self.halving) ** 2 + self.timestep_fs / 1000.0 / self.audit_ps

    @property
    def steps(self) -> int:
        """Steps of one walker."""
        return round(1000.0 * self.length_ps / self.timestep_fs)


class Found(NamedTuple):
    """Result of one simulation."""

    walker_ps_per_hour: float
    labels: int
    device_busy: float  # share of the time
    nodes_busy: float  # share of the time, mean over the nodes


def campaign(costs: Costs, walkers: int, nodes: int, *, order: str, seed: int = 0) -> Found:
    """Simulate a campaign."""
    chance = np.random.default_rng(seed)
    done = np.zeros(walkers, np.int64)
    waiting: list[tuple[int, int]] = []  # (walker, labels known at the request), not yet at a node
    flying: list[tuple[float, int, int]] = []  # (end, walker, round of the request)
    now, known, labels, number = costs.label_s, 1, 1, 0
    device, busy = 0.0, costs.label_s
    while (done < costs.steps).any() or waiting or flying:
        number += 1
        held = {w for w, _ in waiting} | {w for _, w, _ in flying}
        moving = [w for w in range(walkers) if w not in held and done[w] < costs.steps]
        asked: list[int] = []
        if moving:
            drawn = chance.geometric(costs.rate(known), len(moving))
            most = np.minimum(costs.chunk, costs.steps - done[moving])
            took = np.minimum(drawn, most)
            done[moving] += took
            asked = [w for w, d, m in zip(moving, drawn, most, strict=True) if d <= m]
            spent = float(took.max()) * costs.step_s * max(1.0, len(moving) / costs.full_at)
            now, device = now + spent, device + spent
        due = [each for each in flying if order == "arrival" or each[2] < number]
        if due and (order == "rounds" or not moving):
            now = max(now, max(e[0] for e in due) if order == "rounds" else min(e[0] for e in due))
        back = [each for each in due if each[0] <= now]
        if back:
            flying = [each for each in flying if each not in back]
            labels, known = labels + len(back), known + len(back)
            now, device = now + costs.update_s, device + costs.update_s
            waiting = [(w, k) for w, k in waiting if chance.random() < costs.rate(known) / costs.rate(k) or k == known]
        waiting += [(w, known) for w in asked]
        while waiting and len(flying) < nodes:
            w, _ = waiting.pop(0)
            flying.append((now + costs.label_s, w, number))
            busy += costs.label_s
    moved = walkers * costs.length_ps
    return Found(moved / now * HOUR_S, labels, device / now, busy / (now * nodes))


def one_after_another(costs: Costs, walkers: int, nodes: int, seed: int = 0) -> Found:
    """Simulate runs, each of which waits for its labels, with one node in use."""
    chance = np.random.default_rng(seed)
    now, labels, device, busy = 0.0, 0, 0.0, 0.0
    for _ in range(walkers):
        known, step = 1, 0
        now, labels, busy = now + costs.label_s + costs.update_s, labels + 1, busy + costs.label_s
        device += costs.update_s
        while step < costs.steps:
            took = min(int(chance.geometric(costs.rate(known))), costs.steps - step)
            step += took
            now, device = now + took * costs.step_s, device + took * costs.step_s
            if step < costs.steps:
                known, labels, busy = known + 1, labels + 1, busy + costs.label_s
                now, device = now + costs.label_s + costs.update_s, device + costs.update_s
    return Found(walkers * costs.length_ps / now * HOUR_S, labels, device / now, busy / (now * nodes))


def measured(path: Path) -> dict[str, Any]:
    """Walker-ps an hour of a real campaign, and the shares of its time, from its events."""
    events = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    rounds = [event for event in events if event["event"] == "round"]
    updates = [event["seconds"] for event in events if event["event"] == "update"]
    first = next(event["time"] for event in events if event["event"] == "session_started")
    wall = rounds[-1]["time"] - first
    device = sum(event["seconds"] for event in rounds) + sum(updates)
    return {
        "walker_ps_per_hour": rounds[-1]["time_ps"] / wall * HOUR_S,
        "labels": rounds[-1]["labels"],
        "device_busy": device / wall,
        "wall_s": wall,
    }


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--measured", type=Path)
    args = parser.parse_args()
    costs, rows = Costs(), []
    for nodes in (1, 8, 64):
        for walkers in (1, 10, 100, 1000):
            if walkers == 1000 and nodes == 1:
                continue
            alone = one_after_another(costs, min(walkers, 100), nodes)
            row: dict[str, Any] = {"walkers": walkers, "nodes": nodes, "one_after_another": alone._asdict()}
            row |= {o: campaign(costs, walkers, nodes, order=o)._asdict() for o in ("rounds", "arrival")}
            row["gain"] = {o: row[o]["walker_ps_per_hour"] / alone.walker_ps_per_hour for o in ("rounds", "arrival")}
            rows.append(row)
            print(f"{walkers:5} walkers {nodes:3} nodes: " + json.dumps(row["gain"]))
    found = {"costs": costs._asdict(), "rows": rows}
    if args.measured is not None:
        found["measured"] = measured(args.measured)
    write_whole(args.out, (json.dumps(found, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
