"""MACE fulfils what every potential must, its products are those of its definition, and its σ head behaves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from bayes_mlff.data.graph import edge_vectors
from bayes_mlff.models import mace, mace_interaction
from bayes_mlff.models.config import MACEConfig
from bayes_mlff.models.distance_transforms import Agnesi
from bayes_mlff.models.energetics import predictor
from bayes_mlff.models.mace_product import ProductBasis, generalized_coupling, natural
from bayes_mlff.models.pair_repulsion import mace_zbl
from bayes_mlff.models.registry import Potential, initialize, restrict
from bayes_mlff.testing.model_battery import Evaluator, Model, ModelBattery, examples, padded_graph
from bayes_mlff.testing.tiny import tiny_mace

SETTINGS = {
    "elements": (1, 6, 8),
    "r_max": 3.5,
    "num_interactions": 2,
    "max_ell": 2,
    "correlation": 3,
    "num_bessels": 4,
    "radial_widths": (8, 8),
    "readout_width": 5,
    "average_neighbors": 4.0,
    "sigma_widths": (5, 4),
    "energy_scale": 0.8,
    "energy_shift": 0.3,
    "energy_shifts": (1.0, 2.0, 3.0),
}
CONFIG = MACEConfig(hidden_irreps="3x0e+3x1o", **SETTINGS)
SMALL = SETTINGS | {"max_ell": 1, "correlation": 2, "radial_widths": (4,)}
DENSITY = MACEConfig(
    hidden_irreps="2x0e+2x1o",
    first_interaction="density",
    interaction="density_residual",
    apply_cutoff=False,
    readout_bias=True,
    **SMALL,
)
NONLINEAR = MACEConfig(
    hidden_irreps="3x0e+3x1o",
    first_interaction="nonlinear",
    interaction="nonlinear",
    apply_cutoff=False,
    edge_irreps="2x0e+2x1o",
    edge_irreps_first=True,
    agnostic_product=True,
    last_readout_only=True,
    **SMALL,
)
EACH = pytest.mark.parametrize("config", [CONFIG, DENSITY, NONLINEAR], ids=["residual", "density", "nonlinear"])
# With these elements the atoms of the examples are well within the sums of their covalent radii.
PAIRS = tiny_mace(
    (6, 8, 14),
    num_interactions=2,
    correlation=2,
    num_bessels=4,
    radial_widths=(8,),
    average_neighbors=1.0,
    distance_transform=Agnesi(),
    pair_repulsion=mace_zbl(5),
)


def model_of(config):
    """Weights of unit variance, the radial ones enlarged: otherwise the messages are too small to be seen."""
    rng = np.random.default_rng(1)
    template = jax.eval_shape(lambda: initialize(config, 0, jnp.float64).params)
    flat = {k: (2.0 if "/radial/" in k else 1.0) * rng.normal(size=v.shape) for k, v in flatten_dict(template).items()}
    potential = Potential(config, unflatten_dict({k: jnp.asarray(v) for k, v in flat.items()}))
    return Model(potential.node_fn, potential.params, config.elements, config.r_max)


class TestMACE(ModelBattery):
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return model_of(CONFIG)

    def test_sigma_is_positive_and_differs_between_atoms(self, evaluate: Evaluator):
        a, b = evaluate.pair(*list(examples(CONFIG.elements).values())[:2])
        for observables in (a, b):
            assert (observables.sigma > 0.0).all() and np.ptp(observables.sigma) > 1e-6


class TestDensity(ModelBattery):
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return model_of(DENSITY)


class TestNonlinear(ModelBattery):
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return model_of(NONLINEAR)


class TestTransformAndRepulsion(ModelBattery):
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return model_of(PAIRS)

    def test_both_matter(self, model: Model, evaluate: Evaluator):
        molecule = examples(PAIRS.elements)["molecule"]
        with_both = evaluate.pair(molecule, molecule)[0].energy
        for field in ("distance_transform", "pair_repulsion"):
            without = Potential(PAIRS.model_copy(update={field: None}), model.params)
            other = Evaluator(model._replace(node_fn=without.node_fn))([molecule])[0].energy
            assert abs(other - with_both) > 1e-3


@pytest.fixture(scope="module")
def graph():
    structure = examples(CONFIG.elements)["crystal"]
    return jax.tree.map(jnp.asarray, padded_graph(structure, CONFIG.elements, CONFIG.r_max, 5, 64))


def test_dtype_follows_input(graph):
    single = jax.tree.map(lambda x: x.astype(jnp.float32)[None] if x.dtype == jnp.float64 else x[None], graph)
    model = model_of(CONFIG)
    params = jax.tree.map(lambda x: x.astype(jnp.float32), model.params)
    out = jax.eval_shape(predictor(model.node_fn, with_stress=True), params, single)
    chex.assert_type(jax.tree.leaves(out), jnp.float32)
    chex.assert_shape([out.forces, out.stress, out.force_sigma], [(1, 5, 3), (1, 3, 3), (1, 5)])


@pytest.mark.parametrize("config", [CONFIG, NONLINEAR], ids=["residual", "nonlinear"])
def test_rows_of_slots_and_sums_over_elements_change_nothing(config, graph, monkeypatch):
    model = model_of(config)
    vectors = edge_vectors(graph.positions, graph.cell, graph)
    inputs = (vectors, graph.species, graph.neighbors, graph.edge_mask)
    rows = [x if x is graph.species else x.reshape(5 * 4, 16, *x.shape[2:]) for x in inputs]
    rows.append(jnp.repeat(jnp.arange(5), 4))

    def both():
        """Atoms with one row and with several."""
        return jax.jit(lambda p: [model.node_fn(p, *arguments) for arguments in (inputs, rows)])(model.params)

    by_element = both()
    monkeypatch.setattr(mace_interaction, "FEW_ELEMENTS", 0)
    by_edge = both()
    for got in (by_element[1], *by_edge):
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(by_element[0]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11)


@pytest.mark.parametrize(("l_max", "correlation"), [(1, 3), (2, 2), (3, 3)])
def test_products_are_those_of_the_definition(l_max, correlation):
    rng = np.random.default_rng(0)
    n, channels, elements, out = 3, 2, 2, ("0e", "1o", "2e")
    x = {natural(l): jnp.asarray(rng.normal(size=(n, 2 * l + 1, channels))) for l in range(l_max + 1)}
    species = np.array([0, 1, 1])
    one_hot = jax.nn.one_hot(species, elements, dtype=jnp.float64)
    module = ProductBasis(out, l_max, correlation)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, one_hot)["params"]
    weights = {k: rng.normal(size=v.shape) for k, v in shapes.items()}
    got = module.apply({"params": jax.tree.map(jnp.asarray, weights)}, x, one_hot)
    joined = np.concatenate(list(x.values()), axis=1)
    for l, ir in enumerate(out):
        expected = np.zeros((n, 2 * l + 1, channels))
        for order in range(1, correlation + 1):
            factors = "ijk"[:order]
            terms = ",".join([f"w{factors}p", *(f"n{f}c" for f in factors), "npc"])
            u = generalized_coupling(l_max, l, order)
            if u.shape[-1]:
                weight = weights[f"weight_{ir}_{order}"][species]
                expected += np.einsum(f"{terms}->nwc", u, *[joined] * order, weight, optimize=True)
        np.testing.assert_allclose(got[ir], expected, atol=1e-12 * np.abs(expected).max())


@EACH
def test_every_weight_but_redundant_ones_matters(config, graph):
    """Products that differ only in the order of their factors, or vanish, are the only weights without a use."""
    model = model_of(config)
    inputs = (edge_vectors(graph.positions, graph.cell, graph), graph.species, graph.neighbors, graph.edge_mask)

    def total(params):
        out = model.node_fn(params, *inputs)
        return out.energy.sum() + out.force_sigma.sum()

    for name, value in flatten_dict(jax.jit(jax.grad(total))(model.params), sep="/").items():
        quiet = np.abs(value) < 1e-13 * np.abs(value).max()
        assert not quiet.all() and ("/product/" in name or not quiet.any()), name


@EACH
def test_restriction_to_some_elements_changes_nothing(config, graph):
    """The elements of the graph are 1, 6 and 8; those of the larger model include others."""
    numbers = (1, 3, 6, 7, 8)
    larger = config.model_copy(
        update={"elements": numbers, "declared_elements": 5, "energy_shifts": tuple(map(float, numbers))}
    )
    model = model_of(larger)
    whole = Potential(larger, model.params)
    part = restrict(whole, (1, 6, 8))
    assert part.config.energy_shifts == (1.0, 6.0, 8.0)
    inputs = (edge_vectors(graph.positions, graph.cell, graph), graph.neighbors, graph.edge_mask)

    def both(params, fewer):
        species = jnp.asarray([0, 2, 4])[graph.species]
        every = whole.node_fn(params, inputs[0], species, *inputs[1:])
        return every, part.node_fn(fewer, inputs[0], graph.species, *inputs[1:])

    for a, b in zip(*map(jax.tree.leaves, jax.jit(both)(whole.params, part.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)


@EACH
def test_energies_are_linear_in_the_last_layer(config):
    """The path exists, and belongs to a matrix with one output."""
    leaves = flatten_dict(jax.eval_shape(lambda: initialize(config, 0).params))
    assert leaves[mace.last_layer(config)].shape == (config.readout_width, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"elements": (6, 1, 8)},
        {"elements": (1, 6)},
        {"declared_elements": 2},
        {"hidden_irreps": "4x1o"},
        {"hidden_irreps": "4x0e+4x1e"},
        {"hidden_irreps": "4x0e+3x1o"},
        {"hidden_irreps": "4x0e+4x3o", "max_ell": 1, "correlation": 2},
        {"r_max": 0.0},
        {"radial_widths": ()},
        {"correlation": 4},
        {"first_interaction": "both"},
        {"interaction": "nonlinear"},
        {"edge_irreps": "2x0e+2x1o"},
        {"edge_irreps": "2x0e+2x1e"},
        {"edge_irreps_first": True},
        {"last_readout_only": True, "num_interactions": 1},
        {"colour": "blue"},
    ],
)
def test_unusable_configurations_are_refused(change):
    with pytest.raises(pydantic.ValidationError):
        MACEConfig(**({"hidden_irreps": "4x0e"} | SETTINGS | change))
