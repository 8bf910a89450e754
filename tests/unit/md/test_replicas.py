"""Replicas advanced as one batch do what each does alone, until each one's own end."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.data import neighbors
from bayes_mlff.ensemble.triggers import on_energy
from bayes_mlff.md import replicas
from bayes_mlff.md.chunk import Stop, make_chunk, no_limits
from bayes_mlff.md.integrators import initial_state, langevin
from bayes_mlff.md.predictors import batch_predictor, ensemble_predictor
from bayes_mlff.models.energetics import NodeOutput, predictor
from bayes_mlff.testing.structures import triclinic

R_MAX, LENGTH = 2.6, 40
INTEGRATOR = langevin(0.5, 3000.0, 0.02)
PARAMS = np.array([[0.30], [0.33], [0.36]])
FREE = no_limits(np.dtype(np.float64))


def repulsive(params, vectors, species, slots, edge_mask, receivers=None):
    """Half of params[0]·(1 - r/r_max)² eV, scaled by the species, for every neighbour."""
    apart = jnp.where(edge_mask, jnp.linalg.norm(vectors, axis=-1), R_MAX)
    scale = 1.0 + species.astype(apart.dtype)
    energy = 0.5 * params[0] * scale * jnp.sum(jnp.maximum(1.0 - apart / R_MAX, 0.0) ** 2, axis=-1)
    return NodeOutput(energy, jnp.full_like(energy, 0.05))


PREDICT = predictor(repulsive, with_stress=False)


class Systems(NamedTuple):
    """Three crystals of the same shape with other elements."""

    lists: list
    mds: list
    one: Callable
    batch: Callable

    def alone(self, sigma_crit, limits):
        each = zip(
            self.mds, self.lists, map(on_energy, map(np.float64, sigma_crit)), map(np.int32, limits), strict=True
        )
        return [self.one(PARAMS, *arguments, FREE) for arguments in each]

    def together(self, sigma_crit, limits, bounds=(FREE, FREE, FREE)):
        md, near = replicas.stack(self.mds), replicas.stack(self.lists)
        return self.batch(
            PARAMS, md, near, on_energy(np.array(sigma_crit)), np.array(limits, np.int32), replicas.stack(bounds)
        )


@pytest.fixture(scope="module")
def systems():
    structures = [triclinic(numbers) for numbers in [(6, 8, 1), (8, 6, 1), (1, 8, 6)]]
    built = [neighbors.allocate(s, (1, 6, 8), R_MAX, skin=0.1, slack=2.0, dtype=np.float64) for s in structures]
    spec = built[0][0]._replace(capacity=max(spec.capacity for spec, _ in built))
    lists = [neighbors.widen(state, spec.capacity) for _, state in built]
    mds = [
        initial_state(near.graph.positions, s.numbers, 3000.0, jax.random.key(i), cell=near.graph.cell)
        for i, (s, near) in enumerate(zip(structures, lists, strict=True))
    ]
    one = make_chunk(ensemble_predictor(PREDICT, 0.02), INTEGRATOR, spec, LENGTH)
    return Systems(lists, mds, one, replicas.make_replicas(batch_predictor(PREDICT, 0.02), INTEGRATOR, spec, LENGTH))


def assert_equal(got, expected):
    got, expected = (
        [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)]
        for tree in (got, expected)
    )
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_each_replica_ends_by_itself_and_does_until_then_what_it_does_alone(systems, count_compilations):
    free = systems.alone([np.inf] * 3, [LENGTH] * 3)
    assert len({float(f.thermo.potential[-1]) for f in free}) == 3
    for before, after in zip(systems.lists, free, strict=True):
        assert np.any(np.asarray(after.neighbors.reference) != before.reference), "no list was made anew"
    peak = int(np.argmax(free[1].thermo.statistics[5:25, 0])) + 5
    crit = float(np.max(free[1].thermo.statistics[:peak, 0])) + 1e-9  # first exceeded at the peak
    expected = systems.alone([np.inf, crit, np.inf], [LENGTH, LENGTH, 17])
    got = systems.together([np.inf, crit, np.inf], [LENGTH, LENGTH, 17])
    assert list(got.steps) == [LENGTH, peak + 1, 17]
    assert list(got.stop) == [Stop.NONE, Stop.UNCERTAIN, Stop.NONE]
    for i, one in enumerate(expected):
        assert_equal(jax.tree.map(lambda x, i=i: x[i], got), one)
    with count_compilations() as count:
        systems.together([np.inf] * 3, [2] * 3)
    assert count.value == 0


def test_noise_is_each_ones_own(systems):
    same = [systems.mds[0]._replace(rng=jax.random.key(seed)) for seed in range(3)]
    got = systems._replace(mds=same, lists=[systems.lists[0]] * 3).together([np.inf] * 3, [3] * 3)
    assert len({float(positions[0, 0]) for positions in got.md.position}) == 3


def test_limits_are_each_ones_own(systems):
    got = systems.together([np.inf] * 3, [10] * 3, (FREE, FREE._replace(audit=jnp.asarray(4, jnp.int32)), FREE))
    assert list(got.steps) == [10, 4, 10] and list(got.stop) == [Stop.NONE, Stop.AUDIT, Stop.NONE]


def test_states_of_other_shapes_are_not_stacked():
    with pytest.raises(ValueError, match="shape"):
        replicas.stack([(jnp.zeros(2),), (jnp.zeros(3),)])
