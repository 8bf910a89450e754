"""Run the fine-tunings of a scenario that are not done yet; interrupted ones are continued.

    python -m benchmarks.starts.run SCENARIO.yaml DATA_DIR RUNS_DIR [--targets X ...] [--method X ...] [--sizes M ...]

Every fine-tuning gets a directory in RUNS_DIR/<scenario>/; one with a scores.json is skipped. Models that have no known
name are looked for in DATA_DIR. Several of these may run side by side on different starts; the seconds are then those
of shared cores.
"""

import json
from pathlib import Path

from bayes_mlff.core.durable import write_whole
from bayes_mlff.core.errors import RunStoppedError
from bayes_mlff.ensemble import saved
from bayes_mlff.finetune import evaluate
from bayes_mlff.finetune import run as finetune
from bayes_mlff.finetune.config import FinetuneConfig
from benchmarks.scenarios import Fit, arguments, fits, run_all, selected
from benchmarks.starts.scenario import configuration, load
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
    """Run what is left to do, in the order of the file; a fine-tuning whose chains became non-finite is passed over."""
    args = arguments(__doc__).parse_args()
    scenario = load(args.scenario)
    folder, data = args.runs.absolute() / scenario.scenario, args.data.absolute()

    def attempt(fit: Fit) -> bool:
        try:
            return run(configuration(fit, folder, data))
        except RunStoppedError as error:
            print(f"{fit.name} stopped: {error}", flush=True)
            return True

    run_all(selected(fits(scenario), args), attempt)


if __name__ == "__main__":
    main()
