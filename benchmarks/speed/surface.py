"""Work of this package on a slab in a process of its own, so that its peak of memory is that of this work alone.

    python -m benchmarks.speed.surface sghmc|md CASE CHAINS

prints one line of JSON when it is ready, then does the work once for every line that it reads and prints the seconds of
a step and the largest memory of the process so far.
"""

import json
import resource
import sys
import time

import jax

from bayes_mlff.core.jax_start import one_device_per_core
from bayes_mlff.parallel.devices import GIB
from benchmarks.speed import cases, ours


def main() -> None:
    """Serve the work."""
    task, name, chains = sys.argv[1], sys.argv[2], int(sys.argv[3])
    one_device_per_core(chains)
    case = cases.find(name)
    once = ours.update(case, chains=chains) if task == "sghmc" else ours.several(case, count=1, steps=1, chains=chains)
    steps = ours.THIN if task == "sghmc" else 1
    print(json.dumps({"version": f"jax {jax.__version__}"}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        once()
        used = 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB
        print(json.dumps({"seconds": (time.perf_counter() - start) / steps, "gib": used}), flush=True)


if __name__ == "__main__":
    main()
