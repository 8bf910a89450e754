"""A run that goes on with another number of devices is the run that it would have been, to rounding."""

import os
import subprocess
import sys

import pytest

from tests.support import spared

SCRIPT = """
import sys
from pathlib import Path
from unittest import mock
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from bayes_mlff.core import settings
from bayes_mlff.data import dataset
from bayes_mlff.models import registry
from bayes_mlff.otf import config, systems
from bayes_mlff.parallel import devices
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.otf.loop import Session
from bayes_mlff.otf.problem import first_parameters, prepare
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.testing.tiny import tiny_nequip

parsed = config.parse({
    "structure": "ethanol", "threshold": "100 eV",
    "sampler": {"chains": 8, "steps": 10, "cold_steps": 2, "ramp_steps": 2, "batch_size": 1, "step_size": 1e-2},
    "dynamics": {"duration_ps": 0.012, "chunk_steps": 5, "trajectory_every": 1},
    "audits": {"interval_ps": 0.002},
    "engine": {"name": "ase", "calculator": "ase.calculators.emt:EMT"},
})
structure = systems.structure("ethanol", base=Path())
problem = prepare(parsed, structure, registry.initialize(tiny_nequip((1, 6, 8), hidden_irreps="2x0e", edge_l_max=0), 0))
observer, everywhere = mock.Mock(), jax.local_devices()

runs = {name: RunDirectory(Path(sys.argv[1]) / name) for name in ("parts", "whole")}

def go_on(name, count, chunks):
    run = runs[name]
    if not run.config.exists():
        run.create(settings.dump(parsed))
    run.open()
    with mock.patch.object(devices.jax, "local_devices", lambda process_index=None: everywhere[:count]):
        assert devices.chain_mesh(8).size == count
        session = Session(problem, make_engine(parsed.engine), run, observer)
        state = session.resume()
        while state.host.step < parsed.n_steps and chunks > 0:
            state, chunks = session.advance(state), chunks - 1
    run.close()
    return state

for count, chunks in ((8, 2), (1, 2), (2, 100)):
    parts = go_on("parts", count, chunks)
whole = go_on("whole", 1, 100)
assert parts.host.step == whole.host.step == parsed.n_steps
labels, expected = (dataset.read(run.dataset) for run in runs.values())
assert [r.step for r in labels] == [r.step for r in expected] and len(labels) >= 4, [r.step for r in labels]
np.testing.assert_allclose([r.label.energy for r in labels], [r.label.energy for r in expected], rtol=0, atol=1e-4)
thermo, wanted = (np.loadtxt(run.thermo, delimiter=",", skiprows=1) for run in runs.values())
assert list(thermo[:, 0]) == list(range(1, parsed.n_steps + 1)) and np.ptp(wanted[:, 3]) > 1e-3
np.testing.assert_allclose(thermo[:, 2:8], wanted[:, 2:8], rtol=2e-4, atol=1e-4)
moved = np.abs(whole.device.params - first_parameters(problem, jax.random.key(0))).max()
np.testing.assert_allclose(parts.device.params, whole.device.params, rtol=0, atol=1e-3 * moved)
"""


@pytest.mark.slow  # four sessions compile; `test_faults.py` goes from one device to two in every run of the tests
def test_a_run_resumed_with_another_number_of_devices_is_the_same_run(tmp_path):
    cache = {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    environment = (
        os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_backend_optimization_level=0 {spared.FLAGS}",
        }
        | cache
    )
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
