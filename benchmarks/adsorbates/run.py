"""Transfer pretrained networks to a metal that they have not seen; what is done is skipped, what stopped goes on.

    python -m benchmarks.adsorbates.run SCENARIO.yaml SLABS.extxyz RUNS_DIR --pretrained FOLDER [--method X ...]
        [--targets T ...] [--sizes M ...] [--seeds S ...]

Every fine-tuning gets a directory in RUNS_DIR/<scenario>/, as of `bayes-mlff finetune`, and in it `test.json` with
error and σ of every test slab, kcal/mol per adsorbed atom. Sets, and the networks with mean weights in the place of the
untrained ones of the metals, are written to RUNS_DIR/<scenario>/data/.
"""

import json
from pathlib import Path

import ase
import numpy as np
from ase.data import atomic_numbers

from bayes_mlff.core.durable import write_whole
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.ensemble.saved import Ensemble
from bayes_mlff.finetune import evaluate
from bayes_mlff.finetune import fit as finetune
from bayes_mlff.finetune.config import FinetuneConfig
from bayes_mlff.finetune.run import prepare
from bayes_mlff.models import registry
from benchmarks.adsorbates import scenario as scenarios
from benchmarks.adsorbates import slabs
from benchmarks.adsorbates.networks import for_unseen
from benchmarks.scenarios import Fit, arguments, run_all, selected

RESULT = "test.json"


def run(fit: Fit, rows: list[ase.Atoms], pretrained: Path, runs: Path) -> bool:
    """Do one fine-tuning; False if it was done before."""
    config, split = scenarios.configuration(fit, runs), slabs.of_metal(rows, fit.target.metal, fit.seed)
    result = Path(config.output) / RESULT
    if result.is_file():
        return False
    parts = (config.data.train, split.pool), (config.data.validation, split.validation), (config.data.test, split.test)
    for path, part in parts:
        slabs.write(part, Path(str(path)))
    if not Path(config.model).is_file():
        unseen, seen = (tuple(atomic_numbers[m] for m in metals) for metals in (slabs.TARGETS, slabs.SEEN))
        whole = registry.load(str(pretrained / f"{fit.target.model}.safetensors"))
        registry.save(for_unseen(whole, unseen, seen), Path(config.model), {})
    found = predicted(config, finetune(config))
    write_whole(result, (json.dumps(found, indent=1) + "\n").encode())
    return True


def predicted(config: FinetuneConfig, ensemble: Ensemble) -> dict[str, list[float]]:
    """Error and σ of every test slab, kcal/mol per adsorbed atom."""
    task = prepare(config)
    used, graphs = task.sets.named()["test"], task.graphs["test"]
    prediction = evaluate.predict(task.single, ensemble.samples, graphs, config.evaluation_batch)
    units = config.data.energy_units(used.numbers)
    energy = evaluate.outcome(prediction, used, ensemble, energy_units=units).energy
    assert energy is not None and energy.sigma is not None
    return {
        name: [round(float(x), 6) for x in values * KCAL_MOL_PER_EV]
        for name, values in (("error", energy.error), ("sigma", np.asarray(energy.sigma)))
    }


def main() -> None:
    """Run what is left to do, in the order of the file."""
    parser = arguments(__doc__)
    parser.add_argument("--pretrained", type=Path, required=True)
    args = parser.parse_args()
    scenario, rows = scenarios.load(args.scenario), slabs.read(args.data)
    pretrained, runs = args.pretrained.absolute(), args.runs.absolute() / scenario.scenario
    run_all(selected(scenarios.scenarios.fits(scenario), args), lambda fit: run(fit, rows, pretrained, runs))


if __name__ == "__main__":
    main()
