"""What a run compiles, and what it costs to start it: a short run of ethanol in a process of its own.

    python -m benchmarks.speed.starts FOLDER

starts the command line in FOLDER and prints one line of JSON: seconds, labels, and the functions compiled or found in
the persistent cache, by name.
"""

import collections
import json
import logging
import sys
import time
from pathlib import Path

import jax
import yaml

from bayes_mlff.cli import app as command_line
from bayes_mlff.report import run_data

CONFIG = {
    "structure": "ethanol",
    "threshold": "0.2 kcal/mol",
    "sampler": {"steps": 20, "cold_steps": 5, "ramp_steps": 5},
    "dynamics": {"duration_ps": 0.05, "temperature_k": 300.0, "chunk_steps": 20},
    "engine": {"name": "ase", "calculator": "tblite.ase:TBLite", "arguments": {"method": "GFN2-xTB", "verbosity": 0}},
}
"""Far more labels than a minibatch holds, so that the data set grows under the compiled update."""

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
HIT_EVENT = "/jax/compilation_cache/cache_hits"
MISS_EVENT = "/jax/compilation_cache/cache_misses"


def main() -> None:
    """Run and count."""
    started = time.perf_counter()
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    requested, events = collections.Counter(), collections.Counter()

    def compiled(event: str, _: float, fun_name: str = "", **__: str | int) -> None:
        requested[fun_name] += event == COMPILE_EVENT

    def found(event: str, **_: str | int) -> None:
        events[event] += 1

    jax.monitoring.register_event_duration_secs_listener(compiled)
    jax.monitoring.register_event_listener(found)
    logging.disable(logging.WARNING)
    sys.argv = ["bayes-mlff", "run", str(path), "--output", str(folder / "run")]
    try:
        command_line.main()
    except SystemExit as stop:
        if stop.code:
            raise
    labels = len(run_data.read(folder / "run").records)
    result = {
        "seconds": time.perf_counter() - started,
        "labels": labels,
        "dynamics": requested["jit(run)"],
        "update": requested["jit(update_chains)"],
        "all": sum(requested.values()),
        "from_cache": events[HIT_EVENT],
        "compiled": events[MISS_EVENT],
        "names": dict(requested.most_common(12)),
    }
    print("\n" + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
