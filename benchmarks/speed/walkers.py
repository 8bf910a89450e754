"""Steps a second of all walkers of a campaign together: ethanol, one optimum with samples around it.

    python -m benchmarks.speed.walkers OUT.json [--walkers 1 4 16 64] [--rounds 5]

Every number of walkers is timed in turn, `rounds` times; the ratio of medians to one walker is what counts.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp

from bayes_mlff.campaign import config as configuration
from bayes_mlff.campaign.beginning import Beginning
from bayes_mlff.campaign.config import CampaignConfig
from bayes_mlff.campaign.dynamics import GroupDynamics, Task
from bayes_mlff.campaign.learning import Learner
from bayes_mlff.campaign.problem import Begun, make
from bayes_mlff.core import settings
from bayes_mlff.core.durable import write_whole
from bayes_mlff.md.chunk import no_limits
from bayes_mlff.models import registry
from bayes_mlff.otf import criteria, systems
from bayes_mlff.otf.dynamics import Ahead
from bayes_mlff.runs.interruption import Interruption
from bayes_mlff.runs.observing import Silent
from bayes_mlff.runs.start import Start

STEPS: Final = 100
"""Steps of a timed chunk."""


def moved(walkers: int) -> Callable[[], int]:
    """A function that moves so many walkers by one chunk, and returns the number of compiled functions."""
    raw = {"run": {"posterior": "laplace", "dynamics": {"chunk_steps": STEPS, "temperature_k": 300.0}}}
    raw |= {"walkers": [{"structure": "ethanol", "copies": walkers}]}
    config = settings.validate(CampaignConfig, raw)
    members = configuration.members(config, base=Path())
    initial = systems.initial_structure(members[0].config.structure, base=Path())
    potential = registry.for_atoms(registry.load(members[0].config.model), initial.structure.numbers)
    start = Start(initial, potential, "", "", Path())
    campaign = make(config, tuple(Begun(member.name, member.config, start) for member in members))
    learner = Learner(campaign, Interruption())
    nowhere: Any = None  # nothing is labelled or written
    state = Beginning(campaign, nowhere, nowhere, learner, [], Silent()).template()
    dynamics, tasks = GroupDynamics(campaign.groups[0]), []
    for i, walk in enumerate(campaign.walks):
        view = state.view(i, walk.law)
        triggers = criteria.triggers(walk.problem, view.host)
        limits = no_limits(jnp.dtype(jnp.float32))._replace(statistics=jnp.full((1,), jnp.inf, jnp.float32))
        tasks.append(Task(i, view, Ahead(STEPS, triggers, limits, silent=True)))

    def move() -> int:
        ran = dynamics.run(state.arrays.shared, tasks)
        jax.block_until_ready([each.chunk.md.position for each in ran])
        assert all(each.steps == STEPS for each in ran)
        return dynamics.compiled

    return move


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--walkers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    each = {count: moved(count) for count in args.walkers}
    compiled = {count: move() for count, move in each.items()}
    spent: dict[int, list[float]] = {count: [] for count in each}
    for _ in range(args.rounds):
        for count, move in each.items():
            started = time.perf_counter()
            move()
            spent[count].append(time.perf_counter() - started)
    speed = {count: count * STEPS / statistics.median(times) for count, times in spent.items()}
    first = speed[args.walkers[0]]
    rows = [
        {"walkers": n, "steps_per_s": round(v, 1), "ratio": round(v / first, 3), "compiled": compiled[n]}
        for n, v in speed.items()
    ]
    found = {"device": str(jax.devices()[0]), "rounds": args.rounds, "rows": rows}
    print(json.dumps(found, indent=1))
    write_whole(args.out, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
