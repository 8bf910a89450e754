"""Run the fine-tunings of a scenario that are not done yet; interrupted ones are continued.

    python -m benchmarks.starts.run SCENARIO.yaml DATA_DIR RUNS_DIR [--starts X ...] [--method X ...] [--sizes M ...]

Every fine-tuning gets a directory in RUNS_DIR/<scenario>/; one with a scores.json is skipped. Models that have no known
name are looked for in DATA_DIR. Several of these may run side by side on different starts; the seconds are then those
of shared cores.
"""

import argparse
import json
import time
from pathlib import Path

from bayes_mlff.core.durable import write_whole
from bayes_mlff.core.errors import RunStoppedError
from bayes_mlff.ensemble import saved
from bayes_mlff.finetune import evaluate
from bayes_mlff.finetune import run as finetune
from bayes_mlff.finetune.config import FinetuneConfig
from benchmarks.starts import scenario as scenarios
from benchmarks.starts.scores import energy_scatter, score


def run(config: FinetuneConfig) -> bool:
    """Do one fine-tuning and score it on the test frames; False if it was done before."""
    path = Path(config.output) / "scores.json"
    if path.is_file():
        return False
    saved_file = path.with_name("ensemble.safetensors")
    if not (path.with_name("metrics.json").is_file() and saved_file.is_file()):
        finetune.fit(config)
    task = finetune.prepare(config)
    ensemble = saved.load(saved_file)
    frames = task.sets.test
    assert frames is not None
    batch = config.evaluation_batch
    found = score(evaluate.predict(task.single, ensemble.samples, task.graphs["test"], batch), frames, ensemble)
    found["pretrained_energy_scatter"] = energy_scatter(task.pretrained["test"], frames)
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())
    return True


def main() -> None:
    """Run what is left to do, in the order of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--starts", nargs="*", help="only these")
    parser.add_argument("--method", nargs="*", help="only these")
    parser.add_argument("--sizes", nargs="*", type=int, help="only these")
    parser.add_argument("--seeds", nargs="*", type=int, help="only these")
    args = parser.parse_args()
    scenario = scenarios.load(args.scenario)
    folder = args.runs.absolute() / scenario.scenario
    wanted = [
        fit
        for fit in scenarios.fits(scenario)
        if all(
            not chosen or value in chosen
            for chosen, value in (
                (args.starts, fit.start.name),
                (args.method, fit.method),
                (args.sizes, fit.frames),
                (args.seeds, fit.seed),
            )
        )
    ]
    for number, fit in enumerate(wanted, 1):
        began = time.perf_counter()
        try:
            done = run(scenarios.configuration(fit, folder, args.data.absolute()))
        except RunStoppedError as error:
            print(f"{number} of {len(wanted)}: {fit.name}: stopped: {error}", flush=True)
            continue
        text = f"{time.perf_counter() - began:.0f} s" if done else "was done"
        print(f"{number} of {len(wanted)}: {fit.name}: {text}", flush=True)


if __name__ == "__main__":
    main()
