"""Feed every reader thousands of hostile inputs and count those that end in anything but a named error.

    python -m scripts.soak_fuzz 10000 --output soak_fuzz

The folder gets `soak_fuzz.json` with {fuzz_inputs, tracebacks, ...} and one file for every kind of traceback.
"""

import argparse
import collections
import json
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.support.bad_input import Target, try_input
from tests.support.bad_targets import every_target


def soak(target: Target, count: int, number: int, output: Path) -> collections.Counter:
    """Try `count` inputs on one target; offending ones are written to `output`."""
    seen: collections.Counter = collections.Counter()

    @seed(number)
    @settings(
        max_examples=count,
        phases=(Phase.generate,),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def run(value):
        seen["inputs"] += 1
        with tempfile.TemporaryDirectory() as folder:
            try:
                seen["accepted"] += try_input(target, value, Path(folder))
            except Exception as error:  # noqa: BLE001 (whatever it is, it is what this looks for)
                seen["tracebacks"] += 1
                where = traceback.extract_tb(error.__traceback__)[-1]
                name = f"{target.name}-{type(error).__name__}-{Path(where.filename).stem}-{where.lineno}"
                text = "".join(traceback.format_exception(error))[-5000:]
                (output / f"{name.replace(' ', '_')}.txt").write_text(f"{value!r}\n\n{text}", errors="replace")

    run()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", type=int, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("soak_fuzz"))
    given_arguments = parser.parse_args()
    output = given_arguments.output
    output.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("error", RuntimeWarning)
    targets = every_target()
    start, total, by_target = time.perf_counter(), collections.Counter(), {}
    for target in targets:
        seen = soak(target, -(-given_arguments.inputs // len(targets)), given_arguments.seed, output)
        by_target[target.name] = {name: seen[name] for name in ("inputs", "accepted", "tracebacks")}
        total += seen
        print(f"{target.name}: {by_target[target.name]}", flush=True)
    result = {
        "fuzz_inputs": total["inputs"],
        "tracebacks": total["tracebacks"],
        "accepted": total["accepted"],
        "seconds": round(time.perf_counter() - start, 1),
        "seed": given_arguments.seed,
        "targets": by_target,
    }
    (output / "soak_fuzz.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: result[name] for name in ("fuzz_inputs", "tracebacks")}))


if __name__ == "__main__":
    main()
