"""Eight devices do the work of one: the same chains and the same atoms, to rounding."""

import os
import subprocess
import sys

EIGHT = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from pathlib import Path
from bayes_mlff.models import registry
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.otf import config, devices, systems
from bayes_mlff.otf.chunk import make_chunk
from bayes_mlff.otf.integrators import initial_state
from bayes_mlff.otf.problem import first_parameters, prepare
from bayes_mlff.data import neighbors
from bayes_mlff.posterior import training_set as training

assert devices.chain_mesh(8).size == 8 and devices.chain_mesh(12).size == 6 and devices.chain_mesh(7).size == 7
small = NequIPConfig(
    elements=(1, 6, 8), r_max=3.5, hidden_irreps="4x0e+2x1o", edge_l_max=1, num_layers=2, embedding_features=4,
    radial_width=8, num_bessels=4, cutoff_power=6, average_neighbors=5.0, energy_scales=(1.0,) * 3,
    energy_shifts=(0.0,) * 3,
)
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

md = initial_state(state.graph.positions, structure.numbers, 300.0, jax.random.key(2), cell=state.graph.cell)
results = [make_chunk(problem.evaluate, problem.integrator, spec, 10, mesh=mesh)(params, md, state, np.float32(1e9), 10)
           for mesh in (None, devices.chain_mesh(8))]
assert [int(r.steps) for r in results] == [10, 10]
assert len(results[1].md.position.sharding.device_set) == 1
for name in ("potential", "kinetic", "sigma"):
    one, eight = (getattr(r.thermo, name) for r in results)
    assert np.std(one) > 0.0
    np.testing.assert_allclose(eight, one, rtol=1e-3, atol=1e-4)
np.testing.assert_allclose(results[1].md.position, results[0].md.position, rtol=0, atol=1e-5)
"""


def test_eight_devices_do_the_work_of_one():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", EIGHT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
