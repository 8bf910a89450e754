"""What a run says before it begins."""

from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.api.observing import RunObserver
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.engines.shared import SharedEngine
from bayes_mlff.models import architectures, presets
from bayes_mlff.otf import advice, levels, optimum, thresholds
from bayes_mlff.otf.given import Given
from bayes_mlff.otf.problem import Problem
from bayes_mlff.otf.trigger_settings import stated as stated_threshold


def introduce(problem: Problem, engine: SharedEngine, observer: RunObserver) -> None:
    """Say what a run will do, and what was assumed for it."""
    config, dynamics = problem.config, problem.config.dynamics
    apart = config.min_steps_between_labels
    spacing = f", {apart} steps between them" if apart else ""
    validation = f", then {config.validation_frames} random frames" if config.validation_frames else ""
    head = "" if config.head is None else f", head {config.head}"
    threshold = stated_threshold(
        f"{problem.threshold_ev * KCAL_MOL_PER_EV:.3g} kcal/mol", config.threshold_temperature_k
    )
    electrons = "".join(f"  electrons  {line}\n" for line in engine.assumptions(problem.structure))
    observer.say(
        f"{Path(config.structure.file).stem}: {len(problem.structure.numbers)} atoms, {dynamics.duration_ps:g} ps "
        f"({config.n_steps} steps) of {dynamics.ensemble} dynamics{_conditions(problem)}\n"
        f"  model      {config.model}{head}, {_posterior(problem)} of {problem.prior.mean.shape[0]} weights, "
        f"{config.sampler.steps} steps after a label\n"
        f"  prior      normal around the model's weights, with a standard deviation of {config.prior.scale:g}\n"
        f"  preset     {preset(problem)}\n"
        f"  reference  {engine.description}\n{electrons}"
        f"  threshold  {threshold} with {config.confidence:.0%} confidence; "
        f"at most {config.max_labels} labels{spacing}{validation}"
    )
    if config.triggers:
        say_thresholds(problem, observer)
    for topic, text in remarks(problem):
        observer.say(f"  {topic:<10} {text}")


def remarks(problem: Problem) -> list[tuple[str, str]]:
    """What is unusual or assumed, by topic."""
    config, found = problem.config, []
    symbols = {chemical_symbols[z] for z in problem.structure.numbers}
    level = levels.remark(problem.potential.origin, config.engine.level, symbols)
    if level is not None:
        found.append(("level", level))
    found += problem.motion.remarks
    if not architectures.of(problem.potential.config).conservative(problem.potential.config):
        drifts = "the model's forces are not the gradient of its energy: energies of a trajectory drift"
        found.append(("warning", drifts))
    if config.unused:
        found.append(("warning", f"not used in this run: {', '.join(config.unused)}"))
    warning = advice.of_structure(config.dynamics.timestep_fs, problem.structure)
    return found if warning is None else [*found, ("warning", warning)]


def _posterior(problem: Problem) -> str:
    config = problem.config
    if config.posterior == "laplace":
        used = optimum.directions(config, problem.prior)
        return f"one optimum, with {config.laplace.samples} samples around it (laplace, {used} directions of forces),"
    return f"{config.sampler.chains} chains"


def say_given(given: Given, observer: RunObserver) -> None:
    """Say what a run takes from its labels and the ensemble that it was given, and what is assumed of them."""
    lines = list(given.remarks)
    if not lines and (given.labels or given.ensemble is not None):
        samples = "" if given.ensemble is None else f" and {len(given.ensemble.models)} samples"
        lines = [f"{len(given.labels)} labels{samples}, as the run directory keeps them"]
    if lines:
        lines += ["these labels are not counted; the calibration of σ begins at its prior"]
    for number, line in enumerate(lines):
        observer.say(f"  {'start' if number == 0 else '':<10} {line}")


def say_thresholds(problem: Problem, observer: RunObserver) -> None:
    """Say what the threshold of each trigger means for the structure."""
    for number, line in enumerate(thresholds.table(problem)):
        observer.say(f"  {'triggers' if number == 0 else '':<10} {line}")


def preset(problem: Problem) -> str:
    """Whose preset it is, what is taken from it, and what is not."""
    prior, sampler = problem.config.prior, problem.config.sampler
    used = {"prior.scale": prior.scale} | {f"sampler.{key}": value for key, value in sampler.model_dump().items()}
    # Where only one optimum is sought, no chain becomes warm, and the preset's cold steps are not taken.
    return presets.of(problem.potential).line({key: value for key, value in used.items() if value is not None})


def _conditions(problem: Problem) -> str:
    """Text with the temperatures and, in npt, the pressures of the run."""
    config = problem.config
    if config.dynamics.ensemble == "nve":
        if problem.motion.momenta is not None:
            return ""
        return f" from {config.dynamics.initial_temperature_k:g} K"
    held = config.dynamics.conditions()

    def values(pairs: np.ndarray, unit: str) -> str:
        kept = pairs[held.begin_fs < config.dynamics.duration_ps * 1000.0].ravel()
        steps = [x for i, x in enumerate(kept) if i == 0 or x != kept[i - 1]]
        return f"{', '.join(f'{x:g}' for x in steps)} {unit}"

    pressure = f", {values(held.pressure_gpa, 'GPa')}" if config.dynamics.ensemble == "npt" else ""
    free = config.dynamics.barostat.free
    if pressure and len(free) < 3:
        pressure += f" on {', '.join(free)} alone (of the whole cell, with any vacuum in it)"
    return f" at {values(held.temperature_k, 'K')}{pressure}"
