"""Eight devices do the work of one, to rounding; an update that does not fit into the memory does less at once."""

import itertools
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data import neighbors
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.ensemble.triggers import on_energy
from bayes_mlff.md.chunk import make_chunk
from bayes_mlff.md.integrators import initial_state, velocity_verlet
from bayes_mlff.md.predictors import ensemble_predictor
from bayes_mlff.models.energetics import Prediction
from bayes_mlff.parallel.devices import GIB, ChainDevices, chain_mesh, memory_budget, update_mesh
from bayes_mlff.testing.structures import ethanol

EIGHT = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from functools import partial
from pathlib import Path
from bayes_mlff.models import registry
from bayes_mlff.otf import config, systems
from bayes_mlff.parallel import devices
from bayes_mlff.ensemble.triggers import on_energy
from bayes_mlff.md.chunk import make_chunk
from bayes_mlff.md.integrators import initial_state
from bayes_mlff.otf.problem import first_parameters, prepare
from bayes_mlff.data import neighbors
from bayes_mlff.posterior import training_set as training
from bayes_mlff.testing.tiny import tiny_nequip

assert devices.chain_mesh(8).size == 8 and devices.chain_mesh(12).size == 6 and devices.chain_mesh(7).size == 7
small = tiny_nequip((1, 6, 8), hidden_irreps="4x0e+2x1o", num_layers=2)
structure = systems.structure("ethanol", base=Path())
potential = registry.initialize(small, 0)
problem = prepare(config.parse({"structure": "ethanol", "sampler": {"steps": 20, "cold_steps": 5, "ramp_steps": 5}}),
                  structure, potential)
spec, state = neighbors.allocate(structure, small.elements, small.r_max, skin=0.5)
params = first_parameters(problem, jax.random.key(0))
labels = training.append(training.allocate(state.graph, 2), state.graph, -1.0, np.full((9, 3), 0.1), None)
chains = problem.chains.init(params, jax.random.key(1))
update = lambda p, c, t: problem.chains.update(p, c, t, 20)
spread = devices.ChainDevices(8, update)(params, chains, labels)
alone = jax.jit(update)(params, chains, labels)
moved = np.abs(spread[0] - params).max()
assert moved > 1e-3, moved
np.testing.assert_allclose(spread[0], alone[0], rtol=0, atol=1e-3 * moved)
assert len(spread[0].sharding.device_set) == 1

assert dict(devices.update_mesh(2, 5).shape) == {"chains": 2, "batch": 4}
assert dict(devices.update_mesh(1, 5).shape) == {"chains": 1, "batch": 5}
for chains_of, count in ((2, 7), (2, 3), (1, 7)):  # labels: more than a minibatch holds, and fewer
    labels = training.allocate(state.graph, 8)
    for i in range(count):
        labels = training.append(labels, state.graph, -0.1 * i, np.full((9, 3), 0.1 * i), None)
    few, held = params[:chains_of], jax.tree.map(lambda x: x[:chains_of], chains)
    on_eight = devices.ChainDevices(chains_of, partial(problem.chains.update, n_steps=20), batch_size=5)
    spread = on_eight(few, held, labels)
    alone = problem.chains.update(few, held, labels, 20)
    moved = np.abs(spread[0] - few).max()
    assert moved > 1e-3, moved
    np.testing.assert_allclose(spread[0], alone[0], rtol=0, atol=1e-3 * moved)
    np.testing.assert_allclose(spread[2].potential, alone[2].potential, rtol=1e-4)

md = initial_state(state.graph.positions, structure.numbers, 300.0, jax.random.key(2), cell=state.graph.cell)
limit = on_energy(np.float32(1e9))
results = [make_chunk(problem.evaluate, problem.integrator, spec, 10, mesh=mesh)(params, md, state, limit, 10)
           for mesh in (None, devices.chain_mesh(8))]
assert [int(r.steps) for r in results] == [10, 10]
assert len(results[1].md.position.sharding.device_set) == 1
for name in ("potential", "kinetic", "statistics"):
    one, eight = (getattr(r.thermo, name) for r in results)
    assert np.std(one) > 0.0
    np.testing.assert_allclose(eight, one, rtol=1e-3, atol=1e-4)
np.testing.assert_allclose(results[1].md.position, results[0].md.position, rtol=0, atol=1e-5)
"""


SHARES = """
from collections import Counter
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
from jax.sharding import Mesh, PartitionSpec
from bayes_mlff.data import neighbors
from bayes_mlff.models.energetics import Prediction
from bayes_mlff.posterior import training_set as training
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.potential import Observations, potential_and_gradient
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.testing.structures import ethanol

_, state = neighbors.allocate(ethanol(), (1, 6, 8), 3.0)
labels = training.allocate(state.graph, 8)
for i in range(8):
    labels = training.append(labels, state.graph, float(i), np.zeros((9, 3)), None)
seen = Counter()

def predict(params, graphs):
    structures, atoms = graphs.positions.shape[:2]
    jax.debug.callback(lambda device: seen.update({int(device): structures}), jax.lax.axis_index("devices"))
    still = jnp.zeros((structures, atoms, 3))
    return Prediction(jnp.full(structures, params[0]), still, None, jnp.ones((structures, atoms)))

prior = GaussianPrior(jnp.zeros(1), 1.0)
for size, count, expected in ((5, 8, [2, 2, 2]), (8, 8, [2, 2, 2, 2]), (5, 2, [2]), (3, 8, [1, 1, 1])):
    seen.clear()
    gradient = potential_and_gradient(predict, prior, size, batch_axis="devices")
    everywhere = jax.shard_map(gradient, mesh=Mesh(np.array(jax.devices()), ("devices",)), in_specs=PartitionSpec(),
                               out_specs=PartitionSpec(), check_vma=False)
    few = labels._replace(count=jnp.asarray(count, jnp.int32))
    observations = Observations(few, Likelihood(1.0, None))
    value, slope = jax.jit(everywhere)(jnp.ones(1), jax.random.key(0), observations)
    jax.effects_barrier()
    assert [seen[device] for device in sorted(seen)] == expected, (size, count, seen)
    if count <= size:  # every label once: 1/n (prior) + mean of (1 - energy)
        np.testing.assert_allclose(slope, 1.0 / count + 1.0 - np.mean(np.arange(count)), rtol=1e-6)
"""


@pytest.mark.parametrize("script", [EIGHT, SHARES], ids=["to rounding", "in fair shares"])
def test_many_devices_do_the_work_of_one(script):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def hungry(size: int, mark: float):
    """An update that adds `mark` and holds a square matrix of float32 meanwhile."""

    def update(params, state, training_set):
        square = jnp.sin(jnp.outer(jnp.arange(float(size)), jnp.arange(float(size))) * training_set[0])
        return params + mark + 0.0 * jnp.sum(square @ square), state, training_set

    return update


@pytest.mark.parametrize(("memory_mib", "mark"), [(None, 1.0), (100.0, 1.0), (20.0, 2.0), (0.5, 3.0)])
def test_the_first_update_that_fits_is_taken(memory_mib, mark, count_compilations):
    updates = (hungry(2000, 1.0), hungry(1000, 2.0), hungry(100, 3.0))  # 16, 4 and 0.04 MB for each matrix
    memory_gib = None if memory_mib is None else memory_mib / 1024
    devices = ChainDevices(2, *updates, memory_gib=memory_gib)
    params, state, labels = jnp.zeros([2, 3]), jnp.zeros([2]), jnp.ones([4])
    assert np.allclose(devices(params, state, labels)[0], mark)
    with count_compilations() as count:
        devices(params, state, labels)
    assert count.value == 0
    assert np.allclose(devices(params, state, jnp.ones([8]))[0], mark)


def test_what_cannot_be_made_to_fit_is_an_error_that_says_how_much_is_needed():
    devices = ChainDevices(2, hungry(2000, 1.0), hungry(1000, 2.0), memory_gib=1e-4)
    with pytest.raises(ConfigError, match=r"sampler\.memory_gib: got 0\.0001; .*at least 0\.01"):
        devices(jnp.zeros([2, 3]), jnp.zeros([2]), jnp.ones([4]))


def hungry_predictor(size: int, mark: float):
    """A prediction without forces whose σ is `mark`, with a square matrix of float32 meanwhile."""

    def evaluate(params, graph):
        row = jnp.arange(size, dtype=graph.positions.dtype)
        square = jnp.sin(row[:, None] * row[None, :] * graph.positions[0, 0])
        energy = jnp.zeros(1) + 0.0 * jnp.sum(square @ square)
        forces = jnp.zeros_like(graph.positions)[None]
        return Predictive(energy, energy + mark, forces, forces, None, None, energy[None], forces[..., 0] + 3.0)

    return evaluate


@pytest.fixture(scope="module")
def at_rest():
    spec, state = neighbors.allocate(ethanol(), (1, 6, 8), 3.0, dtype=np.float64)
    md = initial_state(state.graph.positions, ethanol().numbers, 0.0, jax.random.key(0), cell=state.graph.cell)
    return spec, state, md


def hungry_chunk(at_rest, memory_gib):
    spec, state, md = at_rest
    first, *low_memory = (hungry_predictor(2000, 1.0), hungry_predictor(1000, 2.0), hungry_predictor(100, 3.0))
    chunk = make_chunk(
        first, velocity_verlet(0.5), spec, 3, mesh=chain_mesh(2), low_memory=low_memory, memory_gib=memory_gib
    )
    return lambda: chunk(np.zeros((2, 1)), md, state, on_energy(np.float64(1e9)), np.int32(2))


@pytest.mark.parametrize(("memory_mib", "mark", "compilations"), [(200.0, 1.0, 1), (40.0, 2.0, 2), (5.0, 3.0, 3)])
def test_the_first_chunk_that_fits_is_taken(at_rest, memory_mib, mark, compilations, count_compilations):
    chunk = hungry_chunk(at_rest, memory_mib / 1024)
    with count_compilations() as count:
        result = chunk()
        chunk()
    assert count.value == compilations
    np.testing.assert_array_equal(result.thermo.statistics[:, 0], [mark, mark, np.nan])


def test_a_chunk_that_cannot_be_made_to_fit_is_an_error_that_names_the_key(at_rest):
    with pytest.raises(ConfigError, match=r"dynamics\.memory_gib: got 1e-05; .*at least 0\.000.* one chain at a time"):
        hungry_chunk(at_rest, 1e-5)()


def test_chains_in_groups_predict_the_same_with_less_memory(at_rest):
    graph = at_rest[1].graph

    def predict(params, graphs):
        wide = jnp.sin(jnp.sum(params) * jnp.sum(graphs.positions, axis=(1, 2))[:, None] * jnp.arange(1e5)[None, :])
        forces = graphs.positions * params[0]
        return Prediction(jnp.sum(jnp.sort(wide, axis=1), axis=1), forces, None, jnp.ones(forces.shape[:2]))

    params = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
    results, memory = [], []
    for at_once in (6, 4, 2, 1):  # 4 does not divide 6: groups of 3
        compiled = jax.jit(ensemble_predictor(predict, 0.1, at_once=at_once)).lower(params, graph).compile()
        results.append(compiled(params, graph))
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
    for other in results[1:]:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10), results[0], other)
    assert results[0].chain_energy.shape == (6, 1) and np.ptp(results[0].chain_energy) > 0.0
    assert all(more > 1.3 * less for more, less in itertools.pairwise(memory)), memory


def test_chains_that_cannot_be_shared_out_over_processes_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(ConfigError, match=r"sampler\.chains: got 8; allowed: a multiple of 3"):
        chain_mesh(8)


def test_processes_with_unlike_devices_agree_on_the_mesh(monkeypatch):
    owned = [[f"{process}.{i}" for i in range(count)] for process, count in enumerate((5, 4))]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("bayes_mlff.parallel.devices.Mesh", lambda array, names: (array.tolist(), names))
    meshes = []
    for here in (0, 1):
        monkeypatch.setattr(
            jax,
            "local_devices",
            lambda process_index=None, here=here: owned[here if process_index is None else process_index],
        )
        meshes.append(update_mesh(2, 5))
    assert meshes[0] == meshes[1] == ([owned[0][:4], owned[1][:4]], ("chains", "batch"))


def test_by_default_an_update_may_take_half_of_the_machine():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    assert jax.default_backend() != "cpu" or 0.0 < memory_budget(chain_mesh(2)) / GIB <= 0.5 * total
