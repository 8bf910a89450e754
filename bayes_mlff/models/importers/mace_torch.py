"""Weights of mace-torch's MACE and ScaleShiftMACE in the layout of this package, and the way back.

Where they are is in `mace_layout`. MACE's couplings U are part of its state: where they are those of
`mace_product.generalized_coupling`, the weights of products are taken over as they are; where they are another basis
of the same products (reduced Clebsch-Gordan), weights are mapped linearly, in float64.

A configuration may know fewer elements than the state. The others' weights then stay out, and on the way back
those in the target stay as they are.

Neither PyTorch nor mace-torch is needed: a state is a mapping from names to numpy arrays,
`{k: v.numpy() for k, v in model.state_dict().items()}`. For `.model` files see `mace_files`.
"""

import math
import re

import jax.numpy as jnp
import numpy as np
from ase import data
from flax.traverse_util import flatten_dict, unflatten_dict

from bayes_mlff.core.errors import WeightsError
from bayes_mlff.models.config import MACEConfig
from bayes_mlff.models.energetics import Params
from bayes_mlff.models.force_sigma import HEAD
from bayes_mlff.models.importers.mace_layout import Product, entries, products, without_effect
from bayes_mlff.models.importers.torch_weights import State, misfits, template
from bayes_mlff.models.mace import MACE
from bayes_mlff.models.mace_product import generalized_coupling, symmetrized
from bayes_mlff.models.pair_repulsion import BOHR_OF_MACE

NOT_WEIGHTS = re.compile(
    r".*\.output_mask"
    r"|.*\.bias"
    r"|.*\.equivariant_nonlin\.mul\.weight"
    r"|pair_repulsion_fn\.(r_max|cutoff\.p|cutoff\.r_max)"  # of earlier versions, which did not use them either
    r"|.*\.conv_tp\.weight"
    r"|.*\._w3j_\d_\d_\d"
    r"|.*\.U_matrix_\d"
    r"|.*\.weights_(max|\d)_zeroed"
)
"""Entries of a state that hold no weights: masks, coupling coefficients, and biases and weights of size 0."""

SAME_COUPLING = 1e-5
"""Largest difference of equal couplings: they are of order one and stored in single precision."""


def from_mace(state: State, config: MACEConfig) -> Params:
    """Take over the weights of a mace-torch model.

    The source has no head for the force σ: those weights become zero, the mean of their prior, so that every
    σ is `force_sigma.SIGMA_UNIT`.

    Args:
      state: the state dictionary as numpy arrays.
      config: the architecture, for all elements of the state or some.

    Returns:
      Parameters for `MACE(config)` in the dtype of the state's weights.

    Raises:
      WeightsError: naming every entry of the state without a place, every parameter without a source, every
        shape that differs and every constant of the model that differs from the configuration.
    """
    index = _checked(state, config)
    filled: dict[str, np.ndarray] = {}
    for entry in entries(config):
        part = entry.part(np.ascontiguousarray(state[entry.source]))
        filled[entry.target] = entry.ours(part if entry.axis is None else np.take(part, index, entry.axis))
    places = _product_places(config, index)
    for product in products(config):
        there, _ = _basis_change(state, config, product)
        weight = np.asarray(state[product.source])[places]
        if there is not None:
            weight = np.einsum("qp,epc->eqc", there, weight.astype(np.float64)).astype(weight.dtype)
        filled[product.target] = weight
    wanted, dtype = template(MACE(config)), filled["embedding"].dtype
    filled |= {k: np.zeros(v.shape, dtype) for k, v in wanted.items() if k.startswith(f"{HEAD}/")}
    problems = [f"parameter {k} has no source" for k in wanted if k not in filled]
    problems += [f"{k} has shape {v.shape}" for k, v in filled.items() if v.shape != wanted[k].shape]
    if problems:
        raise WeightsError("MACE weights do not fit the configuration: " + "; ".join(problems))
    return unflatten_dict({k: jnp.asarray(filled[k]) for k in wanted}, sep="/")


def to_mace(params: Params, config: MACEConfig, state: State) -> dict[str, np.ndarray]:
    """Put weights into the state of a mace-torch model, the inverse of `from_mace`.

    Args:
      params: parameters of `MACE(config)`; the σ head has no place in the target and is dropped.
      config: the architecture.
      state: the target's present state; its constants and the weights of other elements are kept.

    Returns:
      A complete state of the same names, shapes and dtypes.

    Raises:
      WeightsError: if the state does not belong to this architecture.
    """
    index = _checked(state, config)
    weights = {k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}
    result = {k: np.array(v, order="C") for k, v in state.items()}
    for entry in entries(config):
        part, weight = entry.part(result[entry.source]), entry.theirs(weights[entry.target])
        if entry.axis is None:
            part[...] = weight.reshape(part.shape)
        else:
            np.moveaxis(part, entry.axis, 0)[index] = np.moveaxis(weight, entry.axis, 0)
    places = _product_places(config, index)
    for product in products(config):
        _, back = _basis_change(state, config, product)
        weight = weights[product.target]
        result[product.source][places] = weight if back is None else np.einsum("pq,eqc->epc", back, weight)
    return result


def _basis_change(state: State, config: MACEConfig, product: Product) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Matrices that convert the source's weights to ours and back; None if the couplings are equal.

    Raises:
      WeightsError: if the source's couplings are not a basis of the same products.
    """
    ours = generalized_coupling(config.max_ell, product.degree, product.order)
    source = np.asarray(state[product.coupling], np.float64)
    source = source.reshape(*ours.shape[:-1], source.shape[-1])
    if source.shape == ours.shape and np.allclose(source, ours, rtol=0.0, atol=SAME_COUPLING):
        return None, None
    a, b = symmetrized(ours), symmetrized(source)
    there, back = np.linalg.lstsq(a, b, rcond=1e-6)[0], np.linalg.lstsq(b, a, rcond=1e-6)[0]
    if not (np.allclose(a @ there, b, atol=SAME_COUPLING) and np.allclose(b @ back, a, atol=SAME_COUPLING)):
        raise WeightsError(f"{product.coupling}: the couplings are no basis of all products of order {product.order}")
    return there, back


def _checked(state: State, config: MACEConfig) -> np.ndarray:
    """Check that the state belongs to the configuration; return the positions of its elements in the state."""
    numbers = np.ravel(state.get("atomic_numbers", np.zeros(0, int))).astype(int)
    missing = sorted(set(config.elements) - set(numbers.tolist()))
    if len(numbers) != config.declared_elements or missing:
        raise WeightsError(
            f"atomic_numbers: got {len(numbers)} elements without {missing}; "
            f"allowed: {config.declared_elements} that include {list(config.elements)}"
        )
    index = np.array([numbers.tolist().index(z) for z in config.elements])
    sizes: dict[str, int] = {}
    for entry in entries(config):
        sizes[entry.source] = entry.start + math.prod(entry.shape)
    problems: list[str] = []
    for product in products(config):
        coupling = state.get(product.coupling)
        if coupling is None:
            problems.append(f"missing {product.coupling}")
            continue
        tables = 1 if config.agnostic_product else len(numbers)
        sizes[product.source] = tables * np.shape(coupling)[-1] * config.width
        points = (2 * product.degree + 1) * (config.max_ell + 1) ** (2 * product.order)
        if np.size(coupling) != points * np.shape(coupling)[-1]:
            problems.append(f"{product.coupling} has shape {np.shape(coupling)}")
    kept = {k: v for k, v in state.items() if k not in without_effect(config)}
    energies = np.ravel(kept.pop("atomic_energies_fn.atomic_energies", np.zeros(0)))
    if len(energies) != len(numbers) or not np.allclose(energies[index], config.energy_shifts, rtol=1e-6, atol=0.0):
        problems.append(f"atomic_energies_fn.atomic_energies is {energies.tolist()}, configured {config.energy_shifts}")
    for name in [k for k in kept if k.endswith(".covalent_radii")]:
        radii = np.ravel(kept.pop(name))[: len(data.covalent_radii)]
        if not np.allclose(radii, data.covalent_radii[: len(radii)], rtol=1e-6) or len(radii) <= config.elements[-1]:
            problems.append(f"{name} differ from those of ASE")
    constants = _constants(config, numbers)
    if (config.energy_scale, config.energy_shift) == (1.0, 0.0):
        # Models of the class MACE lack both.
        constants = {k: v for k, v in constants.items() if k in state or not k.startswith("scale_shift.")}
    problems += misfits(kept, sizes, constants, NOT_WEIGHTS)
    if problems:
        raise WeightsError("MACE state does not fit the configuration: " + "; ".join(problems))
    return index


def _product_places(config: MACEConfig, index: np.ndarray) -> np.ndarray:
    """Positions of the elements in the weights of products, which may be the same for all."""
    return np.zeros(1, int) if config.agnostic_product else index


def _constants(config: MACEConfig, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Constants of a state that must agree with the configuration."""
    r_max = np.array([config.r_max])
    return {
        "atomic_numbers": numbers,
        "r_max": r_max,
        "num_interactions": np.array([config.num_interactions]),
        "radial_embedding.bessel_fn.r_max": r_max,
        "radial_embedding.bessel_fn.prefactor": np.sqrt(2.0 / r_max),
        "radial_embedding.bessel_fn.bessel_weights": np.pi * np.arange(1, config.num_bessels + 1) / config.r_max,
        "radial_embedding.cutoff_fn.r_max": r_max,
        "radial_embedding.cutoff_fn.p": np.array([config.cutoff_power]),
        "scale_shift.scale": np.array([config.energy_scale]),
        "scale_shift.shift": np.array([config.energy_shift]),
    } | _pair_constants(config)


def _pair_constants(config: MACEConfig) -> dict[str, np.ndarray]:
    """Constants of the functions of the distance of two atoms."""
    found: dict[str, np.ndarray] = {}
    transform, repulsion = config.distance_transform, config.pair_repulsion
    if transform is not None:
        numbers = {"alpha": transform.steepness} if transform.kind == "soft" else transform.model_dump(exclude={"kind"})
        found |= {f"radial_embedding.distance_transform.{k}": np.array([v]) for k, v in numbers.items()}
    if repulsion is not None:
        found |= {
            "pair_repulsion_fn.c": np.array(repulsion.coefficients),
            "pair_repulsion_fn.p": np.array([repulsion.cutoff_power]),
            "pair_repulsion_fn.a_exp": np.array([repulsion.screening_exponent]),
            "pair_repulsion_fn.a_prefactor": np.array([repulsion.screening_length / BOHR_OF_MACE]),
        }
    return found
