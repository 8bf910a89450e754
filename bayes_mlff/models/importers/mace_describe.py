"""The configuration of a mace-torch model, from the attributes of its modules, and what is refused."""

from typing import Any, Final

import e3nn_jax as e3nn

from bayes_mlff.core.errors import WeightsError
from bayes_mlff.models.config import InteractionKind, MACEConfig
from bayes_mlff.models.distance_transforms import Agnesi, Soft
from bayes_mlff.models.importers import mace_heads
from bayes_mlff.models.importers.torch_pickle import Inert, activation_name, irreps_of
from bayes_mlff.models.pair_repulsion import PairRepulsion, mace_zbl

KINDS: Final[dict[str, InteractionKind]] = {
    "RealAgnosticInteractionBlock": "plain",
    "RealAgnosticResidualInteractionBlock": "residual",
    "RealAgnosticDensityInteractionBlock": "density",
    "RealAgnosticDensityResidualInteractionBlock": "density_residual",
    "RealAgnosticResidualNonLinearInteractionBlock": "nonlinear",
}
"""Kinds of interactions by class name."""

LAST_READOUTS: Final = {"NonLinearReadoutBlock": False, "NonLinearBiasReadoutBlock": True}
"""Class names of the last of several readouts, and whether it has biases."""

DEFAULTS: Final = {"cueq_config": None, "oeq_config": None, "use_so3": False}
"""Required attribute values of a model: others would change its form; old models lack these attributes."""

FOREIGN: Final = ("joint_embedding", "embedding_readout")
"""Parts of other models."""


def describe(module: Any, head: int = 0) -> MACEConfig:
    """The configuration of a mace-torch model.

    Args:
      module: the model.
      head: position of the head among several.

    Raises:
      WeightsError: naming what is not supported: other classes of models (dipoles, charges, long range), interactions,
        readouts, radial or pair functions, another activation, embeddings of charge or spin, or options that change
        the form of the network.
    """
    if problems := _unsupported(module):
        raise WeightsError("MACE model is not supported: " + "; ".join(problems))
    first, radial, last = module.interactions[0], module.radial_embedding, module.readouts[-1]
    count, heads = len(module.interactions), mace_heads.names_of(module)
    hidden = str(_irreps(module.products[0].linear.irreps_out))
    scaled = type(module).__name__ == "ScaleShiftMACE"
    config = MACEConfig(
        elements=tuple(int(z) for z in module.atomic_numbers),
        r_max=float(module.r_max),
        hidden_irreps=hidden,
        num_interactions=count,
        first_interaction=KINDS[type(first).__name__],
        interaction=KINDS[type(module.interactions[-1]).__name__] if count > 1 else "residual",
        **_sent(module, hidden),
        max_ell=_irreps(first.edge_attrs_irreps).lmax,
        correlation=_correlation(module.products[0]),
        num_bessels=len(radial.bessel_fn.bessel_weights),
        cutoff_power=int(radial.cutoff_fn.p),
        apply_cutoff=bool(getattr(module, "apply_cutoff", True)),
        radial_widths=tuple(int(h) for h in first.conv_tp_weights.hs[1:-1]),
        agnostic_product=bool(getattr(module, "use_agnostic_product", False)),
        readout_width=_irreps(last.hidden_irreps).dim // max(1, len(heads)) if count > 1 else 1,
        readout_bias=LAST_READOUTS.get(type(last).__name__, False),
        last_readout_only=bool(getattr(module, "use_last_readout_only", False)),
        average_neighbors=float(first.avg_num_neighbors),
        energy_scale=_of_head(module.scale_shift.scale, head) if scaled else 1.0,
        energy_shift=_of_head(module.scale_shift.shift, head) if scaled else 0.0,
        energy_shifts=_row(module.atomic_energies_fn.atomic_energies, head),
        distance_transform=_transform(radial),
        pair_repulsion=_repulsion(module),
        head=heads[head] if len(heads) > 1 else None,
    )
    if config.hidden_irreps != hidden:
        raise WeightsError(f"hidden irreps: got {hidden}; allowed: ascending degrees, {config.hidden_irreps}")
    return config


def _unsupported(module: Any) -> list[str]:
    """Everything about a model that this package does not have."""
    kind, known = type(module).__name__, ("MACE", "ScaleShiftMACE")
    if kind not in known:
        # Other classes have other parts, so nothing else can be said about them.
        return [f"model is a {kind}; allowed: {' or '.join(known)}"]
    problems = [f"{k} is {getattr(module, k)!r}" for k, v in DEFAULTS.items() if getattr(module, k, v) != v]
    blocks = [type(block).__name__ for block in module.interactions]
    radial = module.radial_embedding
    if set(blocks) - set(KINDS) or len(set(blocks[1:])) > 1:
        problems.append(f"interactions are {blocks}; allowed: {sorted(KINDS)}, the same from the second on")
    if type(radial.bessel_fn).__name__ != "BesselBasis":
        problems.append(f"radial functions are a {type(radial.bessel_fn).__name__}")
    problems += [f"model has {name}" for name in FOREIGN if hasattr(module, name)]
    problems += _unknown_pair_functions(module)
    orders = [_correlation(product) for product in module.products]
    if len(set(orders)) > 1:
        problems.append(f"correlations are {orders}; allowed: the same in all interactions")
    if _irreps(module.products[-1].linear.irreps_out).lmax:
        problems.append("the last interaction has outputs that are not scalars")
    return problems + _unsupported_readouts(module)


def _unsupported_readouts(module: Any) -> list[str]:
    """Everything about the readouts of a model that this package does not have."""
    *others, last = module.readouts
    if len(module.interactions) == 1:
        others, last = [last], None
    problems = [f"readout is a {type(x).__name__}" for x in others if type(x).__name__ != "LinearReadoutBlock"]
    gates = [activation_name(act) for act in getattr(getattr(last, "non_linearity", None), "acts", [])]
    if last is not None and (type(last).__name__ not in LAST_READOUTS or gates != ["silu"]):
        problems.append(f"last readout is a {type(last).__name__} with {gates}; allowed: {[*LAST_READOUTS]} with silu")
    return problems


def _correlation(product: Any) -> int:
    """Highest number of factors of a product."""
    return len(product.symmetric_contractions.contractions[0].weights) + 1


def _sent(module: Any, hidden: str) -> dict[str, Any]:
    """The settings `edge_irreps` and `edge_irreps_first`.

    They follow from the layers, since models of before mace-torch 0.3.15 do not state the second.
    """
    sent = [_irreps(block.linear_up.irreps_out) for block in module.interactions]
    different = {str(irreps) for irreps in sent[1:]}
    if len(different) > 1:
        raise WeightsError(f"edge irreps: got {sorted(different)}; allowed: the same from the second interaction on")
    later = next(iter(different), hidden)
    scalars = [f"{e3nn.Irreps(irreps).count(e3nn.Irrep(0, 1))}x0e" for irreps in (hidden, later)]
    if str(sent[0]) not in scalars:
        raise WeightsError(f"edge irreps of the first interaction: got {sent[0]}; allowed: {' or '.join(scalars)}")
    if later == hidden:
        return {}
    return {"edge_irreps": later, "edge_irreps_first": str(sent[0]) == scalars[1] != scalars[0]}


def _of_head(values: Any, head: int) -> float:
    """The number of one head; models with one head may have it without an axis."""
    return float(values.reshape(-1)[head])


def _row(energies: Any, head: int) -> tuple[float, ...]:
    """Energies of the isolated atoms of one head, [heads, elements] or [elements]."""
    return tuple(float(e) for e in energies.reshape(-1, energies.shape[-1])[head])


def _unknown_pair_functions(module: Any) -> list[str]:
    """What is unknown of the functions of the distance of two atoms."""
    problems = []
    repulsion, transform = _repulsion_of(module), _transform_of(module.radial_embedding)
    if repulsion is not None and type(repulsion).__name__ != "ZBLBasis":
        problems.append(f"pair_repulsion_fn is a {type(repulsion).__name__}")
    if (repulsion is None) != (not getattr(module, "pair_repulsion", False)):
        problems.append("one of pair_repulsion_fn and pair_repulsion is there without the other")
    # A SoftTransform of versions before 0.3.11 has another formula, with a and b.
    needed = {"AgnesiTransform": ("q", "p", "a"), "SoftTransform": ("alpha",)}.get(type(transform).__name__, ())
    if transform is not None and not (needed and all(hasattr(transform, name) for name in needed)):
        problems.append(f"distance_transform is a {type(transform).__name__} of unknown form")
    return problems


def _repulsion_of(module: Any) -> Any:
    return getattr(module, "pair_repulsion_fn", None)


def _transform_of(radial: Any) -> Any:
    return getattr(radial, "distance_transform", None)


def _repulsion(module: Any) -> PairRepulsion | None:
    """The pair repulsion with the numbers in the file, whether they were trained or not."""
    found = _repulsion_of(module)
    if found is None:
        return None
    first, second, third, fourth = (float(c) for c in found.c)
    return mace_zbl(
        int(found.p),
        exponent=float(found.a_exp),
        prefactor=float(found.a_prefactor),
        coefficients=(first, second, third, fourth),
    )


def _transform(radial: Any) -> Agnesi | Soft | None:
    """The distance transform with the numbers in the file, whether they were trained or not."""
    found = _transform_of(radial)
    if found is None:
        return None
    if type(found).__name__ == "SoftTransform":
        return Soft(steepness=float(found.alpha))
    return Agnesi(q=float(found.q), p=float(found.p), a=float(found.a))


def _irreps(irreps: Any) -> e3nn.Irreps:
    """Irreps of e3nn, or of inert objects."""
    if isinstance(irreps, Inert):
        return irreps_of(irreps)
    return e3nn.Irreps(str(irreps))
