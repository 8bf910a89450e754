"""Fine-tune as a configuration says, and write the ensemble with its metrics and figures to one directory."""

import json
import time
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bayes_mlff.core import settings, units
from bayes_mlff.core.durable import write_whole
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.paths import is_file
from bayes_mlff.data.graph import Graph
from bayes_mlff.data.labelled_frames import Frames
from bayes_mlff.ensemble import atomic_energies, files
from bayes_mlff.ensemble import saved as ensembles
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.finetune import (
    doubts,
    energy_levels,
    evaluate,
    figures,
    frames,
    identity,
    laplace,
    net_forces,
    remarks,
    sampling,
    tables,
)
from bayes_mlff.finetune.config import FinetuneConfig
from bayes_mlff.finetune.energy_sigma import factor, scatter
from bayes_mlff.finetune.labelled import DataSets
from bayes_mlff.finetune.plan import adjustment, first_parameters, make_plan
from bayes_mlff.finetune.sampling import Observer, Sampled
from bayes_mlff.finetune.work import Ratio, Untested
from bayes_mlff.models import architectures, registry
from bayes_mlff.models.energetics import PredictFn, Prediction
from bayes_mlff.models.force_sigma import SIGMA_UNIT
from bayes_mlff.models.importers.telling import Listener
from bayes_mlff.models.registry import Potential
from bayes_mlff.posterior.likelihood import Likelihood, PerAtom
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.runs.directory import RunDirectory


class Silent:
    """An observer that does nothing."""

    def say(self, text: str) -> None:
        """Ignore the text."""

    def working(self, what: str) -> None:
        """Ignore what is being waited for."""

    def stretch(self, *, step: int, steps: int, potential: float, seconds: float) -> None:
        """Ignore the progress."""


class Task(NamedTuple):
    """All inputs of a fine-tuning, checked."""

    config: FinetuneConfig
    sets: DataSets
    graphs: dict[str, Graph]  # by the names of the sets
    potential: Potential  # pretrained, for the elements of the frames
    single: evaluate.Single
    pretrained: dict[str, Prediction]  # by name of the set, predictions of the pretrained weights; fields [1, f, ...]
    work: dict[str, Ratio | Untested]  # by set and composition in it, ratio of energy differences to work


def fit(config: FinetuneConfig, *, base: Path = Path(), observer: Observer | None = None) -> Ensemble:
    """Fine-tune, predict and write everything into the output directory; continue there if it was interrupted.

    Files: `config.yaml`, `ensemble.safetensors`, `metrics.json`, and as PNG `forces_parity` (`energy_parity` where
    energies are learnt alone), `sigma_error`, `likelihood_by_error` and `calibration` for the test set, else the
    validation set.

    Args:
      config: validated configuration.
      base: directory against which relative paths of data, model and output are resolved.
      observer: told about progress.

    Returns:
      The samples, with σ scaled on the validation set if there is one.

    Raises:
      ConfigError, DataError, WeightsError: before anything is computed or written, if it cannot work.
      RunDirectoryError: if the output directory holds another fine-tuning, or is in use.
      RunStoppedError: if a chain is no longer finite.
    """
    observer = observer or Silent()
    observer.working("reading and checking the labels, and predicting them with the pretrained model")
    task = prepare(config, base=base, listener=observer)
    sizes = ", ".join(f"{name} {used.size}" for name, used in task.sets.named().items())
    atoms = np.concatenate([used.atoms for used in task.sets.named().values()])
    span = f"{atoms.min()} to {atoms.max()}" if atoms.min() < atoms.max() else f"{atoms.max()}"
    observer.say(f"{config.method} on {sizes} frames of {span} atoms")
    unused = identity.without_effect(config)
    if unused:
        observer.say(f"warning: {', '.join(unused)}: not used by method {config.method}")
    observer.say(f"preset {identity.preset(task.config, task.potential).line(_used(task.config))}")
    for remark in remarks.of_labels(task.sets, task.work):
        observer.say(remark)
    for remark in remarks.of_targets(task.config, task.sets):
        observer.say(remark)
    directory = _open(task.config, base / config.output)
    try:
        return _work(task, directory, observer)
    finally:
        directory.close()


def prepare(config: FinetuneConfig, *, base: Path = Path(), listener: Listener | None = None) -> Task:
    """Read and check data and model, and find the neighbours.

    Raises:
      ConfigError, DataError, WeightsError: if something does not fit.
    """
    sets = frames.read(config, base=base)
    potential = read_model(config, sets, base=base, listener=listener)
    elements, r_max = potential.config.elements, potential.config.r_max
    if config.learns_stress and not architectures.of(potential.config).conservative(potential.config):
        allowed = "targets without stress: the forces of this model are not the gradient of its energy, but stress is"
        raise ConfigError("targets", config.targets, allowed)
    graphs = frames.graphs(sets.named(), elements, r_max)
    single = jax.jit(_network(config, potential))
    flat, batch = potential.flat()[0][None, :], config.evaluation_batch
    before = {name: evaluate.predict(single, flat, graphs[name], batch) for name in sets.named()}
    work: dict[str, Ratio | Untested] = {}
    if config.data.doubtful_units == "refuse":
        by_model = not config.from_random_weights
        for name, used in sets.named().items():
            work |= doubts.check_set(before[name], used, sets.units[name], name, by_model=by_model)
        spare = _with_spare(sets)
        if spare is not None:  # a few frames are not enough to test the unit of their file
            graph = frames.graphs({"": spare}, elements, r_max)[""]
            predicted = evaluate.predict(single, flat, graph, batch)
            found = doubts.check_set(predicted, spare, sets.units["train"], "train", by_model=by_model)
            work |= found
    config = identity.stated(config, potential, sets.train)
    energy_levels.check(config, sets, elements)
    return Task(config, sets, graphs, potential, single, before, work)


def _network(config: FinetuneConfig, potential: Potential) -> PredictFn:
    """The network as a function of flat weights, with what is learnt."""
    kinds = {"with_stress": config.learns_stress, "with_forces": config.learns_forces}
    return ensembles.flat_predictor(potential.config, **kinds)


def _used(config: FinetuneConfig) -> dict[str, Any]:
    """Settings that a preset can have and that the method uses, by their keys."""
    if config.optimises:
        return {"sampler.batch_size": config.sampler.batch_size}
    own = {} if config.from_random_weights or config.prior.kind == "normal" else {"prior.scale": config.prior.scale}
    return own | {f"sampler.{key}": value for key, value in config.sampler.model_dump().items()}


def _with_spare(sets: DataSets) -> Frames | None:
    """Training frames; if checks need more, other frames of the file with the same elements are added."""
    train, spare = sets.train, sets.spare
    if train.size >= doubts.FRAMES_TO_DOUBT or spare is None:
        return None
    spare = spare.take(np.flatnonzero(np.isin(spare.numbers, [0, *sets.atomic_numbers]).all(axis=1)))
    if spare.size == 0:
        return None
    most = max(int(train.atoms.max()), int(spare.atoms.max()))
    parts = zip(train.resized(most), spare.resized(most), strict=True)
    return Frames(*(None if a is None or b is None else np.concatenate([a, b]) for a, b in parts))  # pyright: ignore


def read_model(
    config: FinetuneConfig, sets: DataSets, *, base: Path = Path(), listener: Listener | None = None
) -> Potential:
    """The model to begin with, for the elements of the frames.

    Raises:
      ConfigError, WeightsError: if there is no such model.
      DataError: if it does not know an element.
    """
    beside = base / config.model
    path = str(beside) if is_file(beside) else config.model
    whole = registry.load(path, head=config.head, listener=listener)
    return registry.for_atoms(whole, sets.atomic_numbers)


def _open(config: FinetuneConfig, path: Path) -> RunDirectory:
    identity.check_output(config, path)
    directory = RunDirectory(path)
    if not directory.config.is_file():
        directory.create(settings.dump(config))
    directory.open()
    return directory


def _work(task: Task, directory: RunDirectory, observer: Observer) -> Ensemble:
    config, potential, train = task.config, task.potential, task.sets.train
    energies = np.asarray(task.pretrained["train"].energy)
    levels = energy_levels.settle(config, potential.config, train, energies)
    stress_sigma = config.likelihood.stress_sigma_kcal_mol_a3 * units.KCAL_MOL
    text = settings.dump(config)

    likelihood = noise = Likelihood(config.energy_sigma_ev, stress_sigma if config.learns_stress else None)
    atomic = atomic_energies.atomic_reference_energy(potential.config, levels.learnt, train.numbers)[0]
    labels = sampling.fill(config, train, task.graphs["train"], atomic)
    observer.working("compiling and continuing the chains")
    sampled = _sample(task, levels, likelihood, labels, directory, observer)
    observer.working("predicting with all samples")
    chosen: dict[str, Any] = {}
    if config.method == "laplace":
        sampled, noise, chosen["laplace"] = _last_layer(task, likelihood, labels, sampled)

    def ensemble_of(params: jax.Array, offsets: np.ndarray) -> Ensemble:
        stress = stress_sigma if noise.stress_sigma is None else float(noise.stress_sigma)
        return Ensemble(
            potential.config, params, offsets, SigmaFactors(), energy_sigma, stress, text, levels.compositions,
            task.sets.state, learnt_forces=config.learns_forces,
        )  # fmt: skip

    energy_sigma: float | PerAtom = jax.tree.map(float, noise.energy_sigma)
    predicted = cache(partial(_predict, task, sampled.samples))  # by name of a set
    offsets = energy_levels.of_samples(config, potential.config, train, levels, np.asarray(predicted("train").energy))
    if config.targets == "forces" and train.energy is not None:
        atomic = atomic_energies.atomic_reference_energy(potential.config, offsets, train.numbers)
        error = np.mean(predicted("train").energy + atomic, axis=0) - train.energy
        measured = scatter(error, train.atoms, len(levels.compositions), energy_sigma)
        energy_sigma = energy_sigma if measured is None else measured
    ensemble = ensemble_of(sampled.samples, offsets)
    unscaled = None
    if task.sets.validation is not None:
        unscaled = _outcome(task, predicted("validation"), task.sets.validation, ensemble)
        ensemble = ensemble._replace(factors=evaluate.rescaling(unscaled))
    if config.targets == "forces" and train.energy is not None:
        measured = None if unscaled is None else unscaled.energy
        scaled = factor(measured, ensemble.factors.energy, train.size - len(levels.compositions))
        ensemble = ensemble._replace(factors=ensemble.factors._replace(energy=scaled))
    for remark in remarks.of_energies(ensemble, task.sets):
        observer.say(remark)
    ensembles.save(ensemble, directory.path / files.NAME)
    observer.say("predicting")
    outcomes = {name: _outcome(task, predicted(name), used, ensemble) for name, used in task.sets.named().items()}
    before = ensemble_of(potential.flat()[0][None, :], levels.pretrained)
    _report(task, ensemble, outcomes, before, sampled, chosen, directory.path)
    return ensemble


def _outcome(
    task: Task, prediction: Prediction, used: Frames, ensemble: Ensemble, *, with_sigma: bool = True
) -> evaluate.Outcome:
    """Errors of a set, of energies per what they are per in the files."""
    units = task.config.data.energy_units(used.numbers)
    return evaluate.outcome(prediction, used, ensemble, with_sigma=with_sigma, energy_units=units)


def _sample(
    task: Task,
    levels: energy_levels.Levels,
    likelihood: Likelihood,
    labels: TrainingSet,
    directory: RunDirectory,
    observer: Observer,
) -> Sampled:
    config, potential = task.config, task.potential
    plan = make_plan(config, potential)
    key_start, key_chains, _ = _keys(config)
    validation = task.sets.validation

    def error(params: jax.Array) -> np.ndarray:
        assert validation is not None
        predicted = _predict(task, params, "validation")
        if config.learns_forces:
            return evaluate.force_rmse(predicted, validation)
        return energy_levels.rmse(config, potential.config, validation, levels, np.asarray(predicted.energy))

    predict = _network(config, potential)
    return sampling.run(
        config,
        plan,
        predict,
        likelihood,
        labels,
        first_parameters(config, potential, plan.chains, key_start, force_sigma_ev_a=_first_error(task)),
        key_chains,
        folder=directory.checkpoints,
        digest=identity.digest(task.sets, potential, with_weights=not config.from_random_weights),
        observer=observer,
        validate=error if validation is not None else None,
        adjust=adjustment(config, potential, predict, plan.thin),
    )


def _first_error(task: Task) -> float:
    """Root mean square error of the training forces before anything is learnt, eV/Å; random weights predict zero."""
    train = task.sets.train
    if not task.config.learns_forces:
        return SIGMA_UNIT
    if task.config.from_random_weights:
        return train.force_rms
    return max(SIGMA_UNIT, float(evaluate.force_rmse(task.pretrained["train"], train)[0]))


def _keys(config: FinetuneConfig) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Random keys of the starting points, of the chains and of draws around their end."""
    start, chains, draws = jax.random.split(jax.random.key(config.seed), 3)
    return start, chains, draws


def _last_layer(
    task: Task, likelihood: Likelihood, labels: TrainingSet, optimised: Sampled
) -> tuple[Sampled, Likelihood, dict[str, Any]]:
    """Draws from the posterior of the last layer around the optimum, σ of the labels, and the chosen precisions."""
    began = time.perf_counter()
    predict = _network(task.config, task.potential)
    drawn, found = laplace.approximate(
        task.potential, predict, likelihood, labels, optimised.samples[0],
        count=task.config.laplace.samples, key=_keys(task.config)[2],
    )  # fmt: skip
    chosen = {
        "weights": len(found.covariance),
        "effective_weights": found.effective,
        "prior_precision": found.prior_precision,
        "noise_factors": list(found.noise_factors),
    }
    seconds = optimised.seconds + time.perf_counter() - began
    return optimised._replace(samples=drawn, seconds=seconds), laplace.fitted(likelihood, labels, found), chosen


def _predict(task: Task, params: jax.Array, name: str):
    graphs = task.graphs[name]
    return evaluate.predict(task.single, params, graphs, task.config.evaluation_batch)


def _report(
    task: Task,
    ensemble: Ensemble,
    outcomes: dict[str, evaluate.Outcome],
    zero_shot: Ensemble,
    sampled: Sampled,
    chosen: dict[str, Any],
    path: Path,
) -> None:
    """Write the figures, then metrics.json with the choices of the method: its presence means that all is complete."""
    compared = tables.compared(task.config.targets)
    limits = (task.config.large_error_kcal_mol_a, task.config.large_error_kcal_mol)
    results: dict = {
        "method": task.config.method,
        "training_frames": task.sets.train.size,
        "samples": int(ensemble.samples.shape[0]),
        "weights": int(ensemble.samples.shape[1]),
        "sampling_seconds": round(sampled.seconds, 1),
        "sigma_factors": {k: v if np.isfinite(v) else None for k, v in ensemble.factors._asdict().items()},
        "sigma_scaled_on_validation": task.sets.validation is not None,
        "settings": task.config.model_dump(mode="json"),
        "inputs": identity.inputs_digest(task.sets, task.potential),
    }
    shown: tuple[evaluate.Outcome, evaluate.Outcome, list[dict[str, Any]]] | None = None
    errors = evaluate.factor_errors(outcomes["validation"]) if "validation" in outcomes else None
    for name, used in task.sets.named().items():
        tuned = outcomes[name]
        before = _outcome(task, task.pretrained[name], used, zero_shot, with_sigma=False)
        results[name] = {
            "frames": used.size,
            "net": net_forces.net(used),
            "fine_tuned": evaluate.summarise(tuned, *limits, None if name == "validation" else errors),
            "zero_shot": evaluate.summarise(before, *limits),
        }
        if name != "train":
            shown = (tuned, before, results[name]["fine_tuned"][compared.key]["mll_by_error"])
    results |= chosen
    results["trace"] = [entry._asdict() for entry in sampled.trace]
    if shown is not None:
        for name, content in _figures(task.config.method, compared, *shown).items():
            write_whole(path / f"{name}.png", content)
    write_whole(path / "metrics.json", (json.dumps(results, indent=1) + "\n").encode())


def _figures(
    method: str,
    compared: tables.Observable,
    tuned: evaluate.Outcome,
    before: evaluate.Outcome,
    by_error: list[dict[str, Any]],
) -> dict[str, bytes]:
    """PNGs of one set by their names."""
    after, first = (x.energy if compared == tables.ENERGIES else x.forces for x in (tuned, before))
    assert after is not None and after.sigma is not None
    others = {tables.ENERGIES: tuned.energy} if compared == tables.FORCES else {}
    return {
        f"{compared.word}_parity": figures.parity(after, first, compared),
        "sigma_error": figures.sigma_error(after, after.sigma, compared),
        "likelihood_by_error": figures.likelihood_by_error({method: by_error}, observable=compared),
        "calibration": figures.calibration({compared: after} | others),
    }
