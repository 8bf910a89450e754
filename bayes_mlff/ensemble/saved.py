"""A fine-tuned model: all samples, and what turns their predictions into calibrated ones; one file on disk."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bayes_mlff.core.durable import sync
from bayes_mlff.core.errors import ConfigError, WeightsError, brief
from bayes_mlff.data.stated import CHARGES, State
from bayes_mlff.ensemble import atomic_energies
from bayes_mlff.models import architectures, registry
from bayes_mlff.models.config import ArchitectureConfig
from bayes_mlff.models.energetics import Params, PredictFn, predictor
from bayes_mlff.posterior.likelihood import PerAtom

FORMAT: Final = 3
PER_ATOM: Final = "energy_sigma_ev_atom"
"""Key of an energy σ that is one per atom."""


class SigmaFactors(NamedTuple):
    """Factors on the predicted σ; 1 where there was no validation set to find them."""

    energy: float = 1.0
    forces: float = 1.0
    stress: float = 1.0


class Ensemble(NamedTuple):
    """K fine-tuned samples of one architecture."""

    architecture: ArchitectureConfig  # for the elements of the labelled frames only
    samples: jax.Array  # [c, p] flat weights
    offset_ev: np.ndarray  # [c, e] per atom of each element, energy of the sample minus reference; [c] of all together
    factors: SigmaFactors
    energy_sigma_ev: float | PerAtom  # of the likelihood
    stress_sigma_ev_a3: float  # of the likelihood
    config_text: str  # YAML of the fine-tuning
    compositions: np.ndarray | None = None  # [r, e] linearly independent ones with labelled energies; None: unknown
    state: Mapping[str, float] | None = {}  # charge and spin of the labelled frames, as these state them; None: unknown

    def predict_fn(self, *, with_stress: bool) -> PredictFn:
        """Model of one flat set of weights [p]; energies without isolated atoms and offset."""
        return flat_predictor(self.architecture, with_stress=with_stress)

    def atomic_reference_energy(self, numbers: np.ndarray) -> np.ndarray:
        """Sum of the atomic reference energies, which added to the network's energy gives that of the reference, eV.

        Args:
          numbers: atomic numbers [..., n], 0 on padding.

        Returns:
          [c, ...], by sample.
        """
        return atomic_energies.atomic_reference_energy(self.architecture, self.offset_ev, numbers)

    def labelled_state(self) -> State | None:
        """Charge and spin that the labelled frames state; None if nobody knows, or they were allowed to differ."""
        if self.state is None or "electronic_states: allow" in self.config_text:
            return None
        spins = [(name, value) for name, value in self.state.items() if name not in CHARGES]
        return State(self.state.get("charge"), spins[0] if spins else None)

    def knows_energy(self, numbers: np.ndarray) -> np.ndarray:
        """Whether the labelled energies determine the sum of atomic reference energies of compositions.

        They do where a composition is a linear combination of labelled ones: labels of ethanol determine that of two
        ethanol molecules, but not that of water. True where the file does not say, as those of formats 1 and 2.

        Args:
          numbers: atomic numbers [..., n], 0 on padding.

        Returns:
          [...]
        """
        counts = atomic_energies.composition(numbers, self.architecture.elements)
        if self.compositions is None:
            return np.ones(counts.shape[:-1], bool)
        return atomic_energies.determined(counts, self.compositions)


def unraveller(architecture: ArchitectureConfig) -> tuple[int, Callable[[jax.Array], Params]]:
    """Number p of weights, and the way from [p] of any floating type to the network's parameters."""
    shapes = jax.eval_shape(lambda: registry.initialize(architecture, 0).params)
    leaves, treedef = jax.tree.flatten(shapes)
    ends = np.cumsum([leaf.size for leaf in leaves])

    def unravel(flat: jax.Array) -> Params:
        pieces = jnp.split(flat, ends[:-1])
        return jax.tree.unflatten(treedef, [x.reshape(leaf.shape) for x, leaf in zip(pieces, leaves, strict=True)])

    return int(ends[-1]), unravel


def flat_predictor(architecture: ArchitectureConfig, *, with_stress: bool) -> PredictFn:
    """Model of flat weights [p], in the order of `Potential.flat`."""
    unravel = unraveller(architecture)[1]
    predict = predictor(registry.Potential(architecture, {}).node_fn, with_stress=with_stress)
    return lambda params, graphs: predict(unravel(params), graphs)


def save(ensemble: Ensemble, path: Path) -> None:
    """Write one safetensors file, whole or not at all."""
    metadata = {
        "format": str(FORMAT),
        "config": ensemble.architecture.model_dump_json(),
        "factors": json.dumps(ensemble.factors._asdict()),
        **_of_energy_sigma(ensemble.energy_sigma_ev),
        "stress_sigma_ev_a3": repr(ensemble.stress_sigma_ev_a3),
        "finetune": ensemble.config_text,
        **({} if ensemble.state is None else {"state": json.dumps(dict(ensemble.state))}),
    }
    arrays = {
        "samples": np.array(ensemble.samples, order="C"),
        "offset_ev": np.array(ensemble.offset_ev, np.float64, order="C"),
    }
    if ensemble.compositions is not None:
        arrays["compositions"] = np.array(ensemble.compositions, np.int64, order="C")
    unfinished = path.with_name(path.name + ".writing")
    save_file(arrays, unfinished, metadata=metadata)
    sync(unfinished)
    unfinished.replace(path)


def _of_energy_sigma(sigma: float | PerAtom) -> dict[str, str]:
    return {PER_ATOM: repr(sigma.sigma)} if isinstance(sigma, PerAtom) else {"energy_sigma_ev": repr(sigma)}


def load(path: Path) -> Ensemble:
    """Read a file written by `save`.

    In those of format 1 the offset of a sample is one for all structures; only those of format 3 say which compositions
    it holds for.

    Raises:
      ConfigError: if there is no such file.
      WeightsError: if it is no ensemble, of a newer format, or does not fit the architecture that it states.
    """
    if not path.is_file():
        raise ConfigError("ensemble", str(path), "the path of an ensemble.safetensors file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            stored = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise WeightsError(f"{path}: unreadable ({error})") from error
    if "format" not in metadata or set(stored) - {"compositions"} != {"samples", "offset_ev"}:
        raise WeightsError(f"{path}: holds {sorted(stored)}; allowed: a fine-tuned ensemble")
    if metadata["format"].isdecimal() and int(metadata["format"]) > FORMAT:
        raise WeightsError(f"{path}: format {metadata['format']}; this version reads up to {FORMAT}")
    try:
        stated = _stated(metadata)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        what = brief(f"{type(error).__name__}: {error}")
        raise WeightsError(f"{path}: metadata that cannot be read ({what}); allowed: a fine-tuned ensemble") from error
    architecture = stated.architecture
    wanted = unraveller(architecture)[0]
    if stored["samples"].ndim != 2 or stored["samples"].shape != (*stored["offset_ev"].shape[:1], wanted):
        raise WeightsError(f"{path}: samples have shape {stored['samples'].shape}; allowed: [samples, {wanted}]")
    elements = len(architecture.elements)
    if stored["offset_ev"].shape[1:] not in ((), (elements,)):
        raise WeightsError(f"{path}: offset_ev has shape {stored['offset_ev'].shape}; allowed: [samples, {elements}]")
    known = stored.get("compositions")
    if known is not None and (known.ndim != 2 or known.shape[1] != elements):
        raise WeightsError(f"{path}: compositions have shape {known.shape}; allowed: [compositions, {elements}]")
    return stated._replace(samples=jnp.asarray(stored["samples"]), offset_ev=stored["offset_ev"], compositions=known)


def _stated(metadata: Mapping[str, str]) -> Ensemble:
    """An ensemble with what the metadata say, without samples.

    Raises:
      ArithmeticError, AttributeError, KeyError, TypeError, ValueError: if they lack something, or it is not what it
        should be.
    """
    if int(metadata["format"]) < 1:
        raise ValueError(f"format {metadata['format']}")
    factors = SigmaFactors(**{name: float(value) for name, value in json.loads(metadata["factors"]).items()})
    state = (
        {str(name): float(value) for name, value in json.loads(metadata["state"]).items()}
        if "state" in metadata
        else None
    )
    return Ensemble(
        architectures.read_config(metadata["config"]),
        jnp.zeros((0, 0)),
        np.zeros(0),
        factors,
        PerAtom(float(metadata[PER_ATOM])) if PER_ATOM in metadata else float(metadata["energy_sigma_ev"]),
        float(metadata["stress_sigma_ev_a3"]),
        metadata["finetune"],
        state=state,
    )
