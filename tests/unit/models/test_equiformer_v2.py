"""Parts of EquiformerV2: frames, rotations, grids, attention, and which neighbours count."""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest

from bayes_mlff.models.equiformer_v2 import EquiformerV2, nearest
from bayes_mlff.models.equiformer_v2_attention import attention_weights
from bayes_mlff.models.equiformer_v2_config import EquiformerV2Config, published
from bayes_mlff.models.equiformer_v2_grid import grid
from bayes_mlff.models.equiformer_v2_rotations import AXIS, POLE, back_scales, frames, into_frames, orders, wigner
from bayes_mlff.models.registry import initialize
from bayes_mlff.models.slots import Slots
from bayes_mlff.testing.tiny import tiny_equiformer_v2

RNG = np.random.default_rng(3)
EVERY_ORDER = tuple((l, m) for l in range(5) for m in range(-l, l + 1))


def test_frames_turn_every_direction_to_the_pole_and_are_smooth():
    directions = np.concatenate([RNG.normal(size=(20, 3)), np.eye(3), -np.eye(3), [AXIS], [np.negative(AXIS)]])
    turns = np.asarray(frames(jnp.asarray(directions)))
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    np.testing.assert_allclose(np.einsum("eij,ej->ei", turns, units), np.tile(POLE, (len(units), 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turns), 1.0, rtol=1e-12)
    assert np.isfinite(jax.grad(lambda x: jnp.sum(frames(x) ** 3))(jnp.asarray(directions))).all()


def harmonics(vectors):
    """Harmonics of degrees 0 to 3 by e3nn-jax, normalised to one at the pole."""
    irreps = e3nn.Irreps("0e+1o+2e+3o")
    return e3nn.spherical_harmonics(irreps, e3nn.IrrepsArray("1o", vectors), True, normalization="norm").array


def test_wigner_matrices_turn_the_harmonics_of_e3nn():
    points, (turn,) = jnp.asarray(RNG.normal(size=(5, 3))), frames(jnp.asarray(RNG.normal(size=(1, 3))))
    turned = np.split(np.asarray(harmonics(points @ turn.T)), [1, 4, 9], axis=1)
    before = np.split(np.asarray(harmonics(points)), [1, 4, 9], axis=1)
    for matrix, x, y in zip(wigner(turn, 3), before, turned, strict=True):
        np.testing.assert_allclose(x @ matrix.T, y, atol=1e-12)


def test_rotated_harmonics_of_an_edge_have_order_zero_alone():
    """An edge's own harmonics are, in its frame, those of the pole."""
    directions = jnp.asarray(RNG.normal(size=(5, 3)))
    turned = jnp.einsum("ems,es->em", into_frames(directions, 3, 2), harmonics(directions))
    wanted = [1.0 if m == 0 else 0.0 for _, m in orders(3, 2)]
    np.testing.assert_allclose(turned, np.tile(wanted, (5, 1)), atol=1e-12)
    assert [l for l, m in orders(3, 2) if m == -2] == [2, 3]
    np.testing.assert_allclose(back_scales(orders(3, 1)[:4], 1) ** 2, [1.0, 1.0, 5.0 / 3.0, 7.0 / 3.0])


@pytest.mark.parametrize("resolution", [10, 18])
def test_the_grid_gives_coefficients_back(resolution):
    on = grid(4, 4, resolution, EVERY_ORDER)
    np.testing.assert_allclose(on.back @ on.to, np.eye(25), atol=1e-12)
    x = jnp.asarray(RNG.normal(size=(2, 25, 3)))
    np.testing.assert_allclose(on.coefficients(on.values(x)), x, atol=1e-12)


def test_grid_values_are_those_of_harmonics():
    """At latitudes from the pole y, and longitudes from z to x."""
    beta, alpha = np.meshgrid((np.arange(8) + 0.5) * np.pi / 8, np.arange(8) * np.pi / 4, indexing="ij")
    points = np.stack([np.sin(beta) * np.sin(alpha), np.cos(beta), np.sin(beta) * np.cos(alpha)], axis=-1)
    wanted = np.asarray(harmonics(jnp.asarray(points.reshape(64, 3)))) / 2.0
    np.testing.assert_allclose(grid(3, 3, 8, EVERY_ORDER[:16]).to, wanted, atol=1e-12)


def test_without_an_envelope_attention_is_a_softmax_and_rows_of_one_atom_belong_together():
    logits, mask = jnp.asarray(RNG.normal(size=(3, 4, 2)) * 30.0), jnp.arange(4)[None] < jnp.array([[4], [2], [0]])
    ones = jnp.where(mask, 1.0, 0.0)
    weights = attention_weights(logits, ones, mask, Slots(jnp.zeros((3, 4), int), None), 3)
    np.testing.assert_allclose(weights[0], jax.nn.softmax(logits[0], axis=0), rtol=1e-12)
    np.testing.assert_allclose(weights[1, :2], jax.nn.softmax(logits[1, :2], axis=0), rtol=1e-12)
    assert not weights[2].any() and not weights[1, 2:].any()
    split = logits[0].reshape(2, 2, 2), ones[0].reshape(2, 2), mask[0].reshape(2, 2)
    rows = attention_weights(*split, Slots(jnp.zeros((2, 2), int), jnp.array([1, 1])), 2)
    np.testing.assert_allclose(rows.reshape(4, 2), weights[0], rtol=1e-12)


def test_an_envelope_lets_neighbours_come_in_smoothly_alone_and_beside_others():
    logits, mask, slots = (
        jnp.asarray(RNG.normal(size=(1, 3, 1))),
        jnp.ones((1, 3), bool),
        Slots(jnp.zeros((1, 3), int), None),
    )

    def weights(*envelope):
        real = jnp.array([envelope]) > 0.0
        return np.asarray(attention_weights(logits, jnp.array([envelope]), mask & real, slots, 1))[0, :, 0]

    np.testing.assert_allclose(weights(1.0, 1.0, 1e-9), weights(1.0, 1.0, 0.0), atol=1e-8)
    np.testing.assert_allclose(weights(0.0, 0.3, 0.0), [0.0, 0.3, 0.0], rtol=1e-12)


def test_nearest_neighbours_are_kept():
    lengths = np.array([[3.0, 1.0, 2.0, 9.0], [1.0, 5.0, 4.0, 2.0]])
    vectors = jnp.asarray(lengths[..., None] * np.array([0.6, 0.0, 0.8]))
    mask, neighbors = jnp.array([[1, 1, 1, 0], [0, 1, 1, 1]], bool), jnp.arange(8).reshape(2, 4)
    near, who, real = nearest(2, vectors, neighbors, mask)
    assert np.sort(who, axis=1).tolist() == [[1, 2], [6, 7]] and bool(real.all())
    np.testing.assert_allclose(np.sort(np.linalg.norm(near, axis=-1), axis=1), [[1.0, 2.0], [2.0, 4.0]])
    assert nearest(4, vectors, neighbors, mask)[0] is vectors
    assert np.asarray(nearest(3, vectors[:1], neighbors[:1], mask[:1])[2]).sum() == 3


def test_rows_of_edges_and_a_limit_of_neighbours_are_refused_together():
    network = EquiformerV2(tiny_equiformer_v2((1, 8), forces="direct", max_neighbors=1))
    rows = (jnp.ones((2, 1, 3)), jnp.zeros(2, int), jnp.zeros((2, 1), int), jnp.ones((2, 1), bool), jnp.zeros(2, int))
    with pytest.raises(ValueError, match=r"receivers: .*max_neighbors"):
        network.init(jax.random.key(0), *rows)


def test_the_published_network_has_its_size():
    """Of the 31 058 690 weights in fairchem those that reach an output, and the σ head."""
    config = published(tuple(range(1, 90)))
    shapes = jax.eval_shape(lambda: initialize(config, 0).params)
    sigma = 128 * 64 + 64 + 64 * 16 + 16 + 16 + 1
    unused = (5 * 128 * 128 + 128 + 3 * 128 * 128) + 4 * 128  # of the energy head: before the grid, and degrees above 0
    unused += 4 * 128 + 1  # of the force head: other degrees than 1
    unused += 128 + 20 * 128  # atomic number 0, in one embedding of atoms and twenty of edges
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 31_058_690 - unused + sigma


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"m_max": 2}, "m_max must be at most l_max, 1"),
        ({"l_max": 2}, "grid_resolution must be at least 6 for l_max 2"),
        ({"grid_resolution": 5}, "multiple of 2"),
        ({"max_neighbors": 20}, "max_neighbors must be null with forces gradient"),
        ({"forces": "both"}, "'direct' or 'gradient'"),
        ({"l_max": 9}, "less than or equal to 6"),
    ],
)
def test_unusable_configurations_are_refused(change, said):
    with pytest.raises(pydantic.ValidationError, match=said):
        EquiformerV2Config.model_validate(tiny_equiformer_v2((1, 8)).model_dump() | change)
