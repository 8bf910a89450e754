"""A trained ensemble as the starting points of a run's chains."""

from pathlib import Path
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core import settings
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.ensemble import saved
from bayes_mlff.ensemble.saved import Ensemble
from bayes_mlff.models import catalogue, registry
from bayes_mlff.models.potential import Potential
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.given_labels import is_run
from bayes_mlff.otf.problem import Problem, rows
from bayes_mlff.posterior import energy_zero
from bayes_mlff.runs import start as starts
from bayes_mlff.runs.same_start import model_differences

KEY: Final = "start.ensemble"


def with_model(config: RunConfig) -> RunConfig:
    """The configuration with the model and the head from which the ensemble began, if the user named no model.

    Args:
      config: with an absolute path of the ensemble.

    Raises:
      ConfigError: if there is no ensemble, or its model is not known here.
    """
    path = None if config.start is None else config.start.ensemble
    if path is None or "model" in config.model_fields_set:
        return config
    about = settings.parse_yaml(saved.load(Path(path)).config_text, key=KEY, source=path)
    name, head = about.get("model"), about.get("head")
    found = isinstance(name, str) and (name in catalogue.NAMES or (Path(name).is_absolute() and Path(name).is_file()))
    if not found and is_run(Path(path)):
        return config.model_copy(update={"model": str(Path(path) / starts.FOLDER / starts.MODEL)})
    if not found:
        raise ConfigError("model", None, f"the path of the model from which {path} began, {name}, which is not there")
    return config.model_copy(update={"model": name, "head": head})


def check(ensemble: Ensemble, path: Path, problem: Problem) -> list[str]:
    """Compare the model from which an ensemble began with that of a run.

    Returns:
      What could not be compared.

    Raises:
      ConfigError: if they differ.
    """
    own = problem.potential
    whole = Potential(ensemble.architecture, saved.unraveller(ensemble.architecture)[1](ensemble.samples[0]))
    said = _architectures(whole, own)
    if is_run(path) and not said:
        said = model_differences(registry.restrict(starts.read(path).potential, own.config.elements), own)
    if said:
        allowed = f"the model from which {path} began: {'; '.join(said)}"
        raise ConfigError("model", problem.config.model, allowed)
    if is_run(path):
        return []
    about = settings.parse_yaml(ensemble.config_text, key=KEY, source=str(path))
    name = about.get("model") if isinstance(about, dict) else None
    return [f"began at the model {name}; its architecture, but not its weights, were compared with this run's"]


def _architectures(whole: Potential, own: Potential) -> tuple[str, ...]:
    missing = set(own.config.elements) - set(whole.config.elements)
    if missing:
        return (f"it knows no atomic number {', '.join(str(z) for z in sorted(missing))}",)
    trained = registry.restrict(whole, own.config.elements)
    if trained.config == own.config:
        return ()
    return model_differences(own, trained)


def parameters(ensemble: Ensemble, problem: Problem, offset_ev: float, key: jax.Array) -> jax.Array:
    """Starting points [c, p + 1] from samples of an ensemble, with their zeros of the energies.

    With more samples than chains, samples at even distances are taken. With fewer, samples are used again, displaced as
    the chains of a new run are from the centre of the prior, so that no two chains start at the same point.

    Args:
      ensemble: of the same architecture, of at least the elements of the run.
      problem: constants of the run.
      offset_ev: of the energies of the reference, eV.
      key: random key of the displacements.
    """
    count, chains = len(ensemble.models), problem.config.chains
    chosen = np.round(np.linspace(0, count - 1, chains)).astype(int) if count >= chains else np.arange(chains) % count
    unravel = saved.unraveller(ensemble.architecture)[1]
    elements = problem.potential.config.elements
    weights = jnp.stack(
        [
            registry.restrict(Potential(ensemble.architecture, unravel(ensemble.models[i])), elements).flat()[0]
            for i in chosen
        ]
    ).astype(problem.prior.mean.dtype)
    if count < chains:
        scale = problem.config.sampler.initial_spread * jnp.asarray(problem.prior.scale, weights.dtype)
        shifts = scale * jax.random.normal(key, weights.shape, weights.dtype)
        weights = jnp.where((jnp.arange(chains) < count)[:, None], weights, weights + shifts)
    # network + atomic = reference, and network + zero = reference + offset - isolated atoms
    atomic = ensemble.atomic_reference_energy(problem.structure.numbers)[chosen]
    zero = jnp.asarray(problem.scale(offset_ev).reference_to_network(atomic), weights.dtype)
    # Samples around an optimum are drawn after the first label.
    return jnp.repeat(energy_zero.joined(weights, zero), rows(problem.config) // chains, axis=0)
