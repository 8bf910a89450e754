"""A fine-tuned ensemble in one file: all samples of the weights, and the calibration of their predictions.

Fine-tunings on existing labels and on-the-fly runs write the same file. They differ in the calibration of σ: a
validation set gives factors, and the errors found in a run give Student's t distribution, which its trigger uses.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes
from scipy import stats

from bayes_mlff.core import durable, units
from bayes_mlff.core.errors import ConfigError, WeightsError, brief
from bayes_mlff.data.stated import CHARGES, State
from bayes_mlff.ensemble import atomic_energies, error_law, files
from bayes_mlff.ensemble.atomic_energies import OWN_ARRAYS, OwnLevels
from bayes_mlff.ensemble.error_law import ErrorLaw
from bayes_mlff.models import architectures, registry
from bayes_mlff.models.config import ArchitectureConfig
from bayes_mlff.models.energetics import NodeOutput, Params, PredictFn, predictor
from bayes_mlff.posterior.likelihood import PerAtom

FORMAT: Final = 6
"""Since 5 files say whether samples lie around an optimum, and whether forces were learnt; in 6 compositions may have
levels of their own."""
CONFIGURATION: Final = {1: "finetune", 2: "finetune", 3: "finetune"}
"""Metadata key of the configuration's text in older formats; now it is `configuration`."""
PER_ATOM: Final = "energy_sigma_ev_atom"
"""Metadata key of an energy σ per atom."""


class SigmaFactors(NamedTuple):
    """Calibration factors of the predicted σ; 1 without a validation set."""

    energy: float = 1.0
    forces: float = 1.0
    stress: float = 1.0


class OnlineCalibration(NamedTuple):
    """Calibration of the energies by the errors found in a run, and the accuracy that the run requires."""

    law: ErrorLaw  # applies to the uncalibrated σ of the ensemble
    threshold: str  # error of the total energy with its unit, possibly per atom
    confidence: float  # required probability that an error is below the threshold


class Ensemble(NamedTuple):
    """Several fine-tuned samples of the weights of one architecture, with their calibration."""

    architecture: ArchitectureConfig  # restricted to the elements of the labelled frames
    samples: jax.Array  # [c, p] flat weights; if `linear`, the first is an optimum and the others are samples around it
    offset_ev: np.ndarray  # [c, e] energy of the sample minus reference, per atom of each element; or [c], in total
    factors: SigmaFactors
    energy_sigma_ev: float | PerAtom  # σ of energies in the likelihood, eV
    stress_sigma_ev_a3: float  # σ of stress components in the likelihood, eV/Å³
    config_text: str  # YAML configuration of the fine-tuning or the run
    compositions: np.ndarray | None = None  # [r, e] linearly independent labelled compositions; None: unknown
    state: Mapping[str, float] | None = {}  # charge and spin that the labelled frames state; None: unknown
    online: OnlineCalibration | None = None  # calibration of a run; None: only the factors calibrate
    provenance: Mapping[str, str] = {}  # origin, for information: run, step, labels
    learnt_forces: bool = True  # False: energies alone were learnt, no forces or stress are offered
    linear: bool = False  # whether samples are evaluated to first order around the optimum, see `ensemble.linear`
    own: OwnLevels | None = None  # levels of compositions that `offset_ev` does not give

    @property
    def models(self) -> jax.Array:
        """Weights [m, p] that are models by themselves: the samples, or the optimum around which they lie."""
        return self.samples[:1] if self.linear else self.samples

    def predict_fn(self, *, with_stress: bool, with_slopes: bool = False) -> PredictFn:
        """Prediction function of flat weights [p]; its energies are without isolated atoms and offset."""
        kinds = {"with_stress": with_stress, "with_forces": self.learnt_forces, "with_slopes": with_slopes}
        return flat_predictor(self.architecture, **kinds)

    @property
    def conservative(self) -> bool:
        """Whether forces are the gradient of the energy."""
        return architectures.of(self.architecture).conservative(self.architecture)

    def require_forces(self, use: str, *, conservative: bool = False) -> None:
        """Refuse a use that needs forces if energies alone were learnt.

        Args:
          use: what needs them, in words.
          conservative: whether the use needs forces that are the gradient of the energy.

        Raises:
          ConfigError: naming the use.
        """
        if not self.learnt_forces:
            allowed = f"one that has learnt forces for {use}; this one was fine-tuned with targets: energy"
            raise ConfigError("ensemble", "energies alone", allowed)
        if conservative and not self.conservative:
            allowed = f"one whose forces are the gradient of its energy for {use}, which conserves it"
            raise ConfigError("ensemble", "direct forces", allowed)

    def atomic_reference_energy(self, numbers: np.ndarray) -> np.ndarray:
        """Sum of the atomic reference energies, eV: reference energy = network energy + this sum.

        Args:
          numbers: atomic numbers [..., n], 0 on padding.

        Returns:
          [c, ...], for each sample.
        """
        summed = atomic_energies.atomic_reference_energy(self.architecture, self.offset_ev, numbers)
        if self.own is None:
            return summed
        counts = atomic_energies.composition(numbers, self.architecture.elements)
        return summed - self.own.beyond(self.offset_ev, counts)

    def exceedance_probability(self, sigma_ev: float, threshold_ev: float) -> float:
        """Probability that the absolute error of a total energy is above a threshold.

        For a run from the law of its errors, as in its trigger; else from a normal one with `factors.energy` · σ.

        Args:
          sigma_ev: standard deviation over the samples, not calibrated, eV; where it is not finite the result is 1.
          threshold_ev: eV.
        """
        if not np.isfinite(sigma_ev):
            return 1.0
        if self.online is not None:
            return float(error_law.exceedance_probability(self.online.law, sigma_ev, threshold_ev))
        return float(2.0 * stats.norm.sf(threshold_ev / (sigma_ev * self.factors.energy)))

    def calibrated_energy_sigma(self, sigma_ev: float) -> float:
        """Standard deviation of the error of a total energy, eV; infinite if too few errors are known for it.

        Args:
          sigma_ev: standard deviation over the samples, not calibrated, eV.
        """
        if self.online is None or not np.isfinite(sigma_ev):
            return sigma_ev * self.factors.energy
        return float(error_law.deviation(self.online.law, sigma_ev))

    def labelled_state(self) -> State | None:
        """Charge and spin that the labelled frames state; None if unknown, or if they were allowed to differ."""
        if self.state is None or "electronic_states: allow" in self.config_text:
            return None
        spins = [(name, value) for name, value in self.state.items() if name not in CHARGES]
        return State(self.state.get("charge"), spins[0] if spins else None)

    def knows_energy(self, numbers: np.ndarray) -> np.ndarray:
        """Whether the labelled energies determine the sum of atomic reference energies for given compositions.

        This is so if a composition is a linear combination of labelled ones: labels of ethanol determine the sum for
        two ethanol molecules, but not for water. Where compositions have levels of their own, it is so for their whole
        multiples. True for files of formats 1 and 2, which lack this information.

        Args:
          numbers: atomic numbers [..., n], 0 on padding.

        Returns:
          Booleans [...].
        """
        counts = atomic_energies.composition(numbers, self.architecture.elements)
        if self.own is not None:
            return self.own.known(counts)
        if self.compositions is None:
            return np.ones(counts.shape[:-1], bool)
        return atomic_energies.determined(counts, self.compositions)


def unraveller(architecture: ArchitectureConfig) -> tuple[int, Callable[[jax.Array], Params]]:
    """Number p of weights, and a function that converts a vector [p] of any floating type to network parameters."""
    shapes = jax.eval_shape(lambda: registry.initialize(architecture, 0).params)
    leaves, treedef = jax.tree.flatten(shapes)
    ends = np.cumsum([leaf.size for leaf in leaves])

    def unravel(flat: jax.Array) -> Params:
        pieces = jnp.split(flat, ends[:-1])
        return jax.tree.unflatten(treedef, [x.reshape(leaf.shape) for x, leaf in zip(pieces, leaves, strict=True)])

    return int(ends[-1]), unravel


@functools.lru_cache(maxsize=8)  # the same function is compiled once, for all fits of a process
def flat_predictor(
    architecture: ArchitectureConfig, *, with_stress: bool, with_forces: bool = True, with_slopes: bool = False
) -> PredictFn:
    """Prediction function of flat weights [p], in the order of `Potential.flat`; see `predictor`."""
    unravel = unraveller(architecture)[1]
    node_fn = registry.Potential(architecture, {}).node_fn

    def of_weights(params: jax.Array, *inputs: Any, **named: Any) -> NodeOutput:
        return node_fn(unravel(params), *inputs, **named)

    return predictor(of_weights, with_stress=with_stress, with_forces=with_forces, with_slopes=with_slopes)


def contracted(architecture: ArchitectureConfig) -> tuple[ArchitectureConfig, Callable[[jax.Array], jax.Array] | None]:
    """An architecture that gives the same energies with fewer weights, and the function to these weights.

    Weights on an element embedding are combined into weights for each element.

    Returns:
      The architecture, and a differentiable function from weights [p] to weights [q]; itself and None if there is none.
    """
    unravel = unraveller(architecture)[1]
    combine = architectures.of(architecture).per_element

    def contract(params: jax.Array) -> jax.Array:
        return ravel_pytree(combine(architecture, unravel(params))[1])[0]

    shapes = jax.eval_shape(lambda: registry.initialize(architecture, 0).params)
    few = combine(architecture, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))[0]
    return (architecture, None) if few == architecture else (few, contract)


def save(ensemble: Ensemble, path: Path) -> None:
    """Write one safetensors file atomically.

    Raises:
      OSError: if the file cannot be written.
    """
    durable.write_whole(path, serialised(ensemble))


def serialised(ensemble: Ensemble) -> bytes:
    """The content of the file that `save` writes."""
    metadata = {
        "format": str(FORMAT),
        "config": ensemble.architecture.model_dump_json(),
        "factors": json.dumps(ensemble.factors._asdict()),
        **_of_energy_sigma(ensemble.energy_sigma_ev),
        "stress_sigma_ev_a3": repr(ensemble.stress_sigma_ev_a3),
        "configuration": ensemble.config_text,
        "provenance": json.dumps(dict(ensemble.provenance)),
        "linear": json.dumps(ensemble.linear),
        "learnt_forces": json.dumps(ensemble.learnt_forces),
        **({} if ensemble.state is None else {"state": json.dumps(dict(ensemble.state))}),
        **({} if ensemble.online is None else {"online": json.dumps(_of_online(ensemble.online))}),
    }
    arrays = {
        "samples": np.array(ensemble.samples, order="C"),
        "offset_ev": np.array(ensemble.offset_ev, np.float64, order="C"),
    }
    if ensemble.compositions is not None:
        arrays["compositions"] = np.array(ensemble.compositions, np.int64, order="C")
    if ensemble.own is not None:
        arrays |= ensemble.own.stored()
    return to_bytes(arrays, metadata=metadata)


def _of_online(online: OnlineCalibration) -> dict[str, Any]:
    return {**online._asdict(), "law": online.law.to_json()}


def same(left: Ensemble, right: Ensemble) -> bool:
    """True if two ensembles have bit-identical predictions and the same settings."""
    arrays, apart = ("samples", "offset_ev", "compositions"), ("own", "provenance")
    if any(getattr(left, name) != getattr(right, name) for name in set(Ensemble._fields) - {*arrays, *apart}):
        return False
    pairs = [(getattr(left, name), getattr(right, name)) for name in arrays]
    pairs += zip(left.own or (None, None), right.own or (None, None), strict=True)
    return all(a is b or (a is not None and b is not None and np.array_equal(a, b)) for a, b in pairs)


def _of_energy_sigma(sigma: float | PerAtom) -> dict[str, str]:
    return {PER_ATOM: repr(sigma.sigma)} if isinstance(sigma, PerAtom) else {"energy_sigma_ev": repr(sigma)}


def load(path: Path) -> Ensemble:
    """Read a file written by `save`.

    Files of format 1 have one offset per sample for all structures; files of formats 1 and 2 do not state the
    compositions for which it is valid.

    Args:
      path: a file, or the directory of a run or a fine-tuning; see `files.find`.

    Raises:
      ConfigError: if the file does not exist.
      WeightsError: if it is not an ensemble, has a newer format, or does not fit the architecture that it states.
    """
    path, metadata, stored = _read(path)
    own = [stored.pop(name, None) for name in OWN_ARRAYS]
    if "format" not in metadata or set(stored) - {"compositions"} != {"samples", "offset_ev"}:
        raise WeightsError(f"{path}: holds {sorted(stored)}; allowed: a fine-tuned ensemble")
    if metadata["format"].isdecimal() and int(metadata["format"]) > FORMAT:
        raise WeightsError(f"{path}: format {metadata['format']}; this version reads up to {FORMAT}")
    try:
        stated = _stated(metadata)
    except (ArithmeticError, AttributeError, ConfigError, KeyError, TypeError, ValueError) as error:
        what = brief(f"{type(error).__name__}: {error}")
        raise WeightsError(f"{path}: metadata that cannot be read ({what}); allowed: a fine-tuned ensemble") from error
    architecture = stated.architecture
    wanted = unraveller(architecture)[0]
    if stored["samples"].ndim != 2 or stored["samples"].shape != (*stored["offset_ev"].shape[:1], wanted):
        raise WeightsError(f"{path}: samples have shape {stored['samples'].shape}; allowed: [samples, {wanted}]")
    elements = len(architecture.elements)
    if stored["offset_ev"].shape[1:] not in ((), (elements,)):
        raise WeightsError(f"{path}: offset_ev has shape {stored['offset_ev'].shape}; allowed: [samples, {elements}]")
    if stated.linear and len(stored["samples"]) < 3:
        raise WeightsError(f"{path}: {len(stored['samples'])} sets of weights; allowed: an optimum and two samples")
    spoilt = [name for name in ("samples", "offset_ev") if not _is_finite(stored[name])]
    if spoilt:
        raise WeightsError(f"{path}: {' and '.join(spoilt)} hold something else than finite real numbers")
    known = stored.get("compositions")
    if known is not None and (known.ndim != 2 or known.shape[1] != elements):
        raise WeightsError(f"{path}: compositions have shape {known.shape}; allowed: [compositions, {elements}]")
    read = stated._replace(samples=jnp.asarray(stored["samples"]), offset_ev=stored["offset_ev"], compositions=known)
    return read._replace(own=OwnLevels.read(path, own, stored["offset_ev"]))


def sample_count(path: Path) -> int:
    """Number of models in an ensemble, read without JAX, whose devices are made for them; 1 if it cannot be read."""
    try:
        with safe_open(files.find(path), framework="numpy") as file:
            if (file.metadata() or {}).get("linear") == "true":
                return 1  # they are evaluated together
            return int(file.get_slice("samples").get_shape()[0])
    except (OSError, SafetensorError):
        return 1  # `load` gives a suitable error


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and bool(np.isfinite(array).all())


def _read(path: Path) -> tuple[Path, Mapping[str, str], dict[str, np.ndarray]]:
    """The file, its metadata and its arrays; a run that goes on removes files, so that the newest is looked for again.

    Raises:
      ConfigError: if there is no such file.
      WeightsError: if it cannot be read.
    """
    found = files.find(path)
    try:
        with safe_open(found, framework="numpy") as file:
            return found, file.metadata() or {}, {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (no dict)
    except FileNotFoundError:
        return _read(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{found}: unreadable ({error})") from error


def _stated(metadata: Mapping[str, str]) -> Ensemble:
    """Make an ensemble without samples from the metadata.

    Raises:
      ArithmeticError, AttributeError, ConfigError, KeyError, TypeError, ValueError: if an entry is missing or not
        valid.
    """
    if int(metadata["format"]) < 1:
        raise ValueError(f"format {metadata['format']}")
    factors = SigmaFactors(**{name: float(value) for name, value in json.loads(metadata["factors"]).items()})
    return Ensemble(
        architectures.read_config(metadata["config"]),
        jnp.zeros((0, 0)),
        np.zeros(0),
        factors,
        PerAtom(float(metadata[PER_ATOM])) if PER_ATOM in metadata else float(metadata["energy_sigma_ev"]),
        float(metadata["stress_sigma_ev_a3"]),
        metadata[CONFIGURATION.get(int(metadata["format"]), "configuration")],
        state=_numbers(metadata["state"]) if "state" in metadata else None,
        online=_online(json.loads(metadata["online"])) if "online" in metadata else None,
        learnt_forces=_truth(json.loads(metadata.get("learnt_forces", "true"))),
        provenance={str(k): str(v) for k, v in json.loads(metadata.get("provenance", "{}")).items()},
        linear=_truth(json.loads(metadata.get("linear", "false"))),
    )


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} in the place of true or false")
    return value


def _numbers(text: str) -> dict[str, float]:
    return {str(name): float(value) for name, value in json.loads(text).items()}


def _online(stated: Mapping[str, Any]) -> OnlineCalibration:
    law = ErrorLaw.from_json(stated["law"]) if "law" in stated else _single(stated["state"])
    threshold, confidence = str(stated["threshold"]), float(stated["confidence"])
    units.parse_energy(threshold, n_atoms=1)
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"online: {dict(stated)}")
    return OnlineCalibration(law, threshold, confidence)


def _single(numbers: Sequence[float]) -> ErrorLaw:
    """Law of older files, which scaled the spread and the floor alike."""
    a, b, n, s = map(float, numbers)
    prior = error_law.init(a, b).to_json()
    return ErrorLaw.from_json({**prior, "n": [n], "s": [s]})
