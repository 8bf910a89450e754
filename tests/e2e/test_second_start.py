"""The second start of a run, from the command line, compiles nothing and says nothing about it."""

import os
import subprocess
import sys
from pathlib import Path

from bayes_mlff.models import registry
from bayes_mlff.otf import config as configuration
from bayes_mlff.testing.tiny import tiny_nequip
from tests.support import spared

COUNTED = """
import atexit, collections
import jax
from tests.support import light_imports, one_context
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event]))
from bayes_mlff.models import selfcheck
selfcheck.ensure = lambda say=None: False  # compiles whole models, once for an installation
from bayes_mlff.cli.app import main
atexit.register(lambda: print("compiled", *(seen["/jax/compilation_cache/cache_" + x] for x in ("misses", "hits"))))
main()
"""

CONFIG = """
structure: ethanol
model: {model}
threshold: 100 eV
sampler: {{chains: 2, steps: 10, cold_steps: 2, ramp_steps: 2, batch_size: 1}}
dynamics: {{duration_ps: 0.001}}
audits: {{interval_ps: 0}}
engine: {{name: ase, calculator: "ase.calculators.emt:EMT"}}
"""


def start(folder, output, **environment):
    """Output and errors of one start, how much was compiled and how much was found."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment = (
        own
        | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_backend_optimization_level=0 {spared.FLAGS}",
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        | environment
    )
    command = [sys.executable, "-c", COUNTED, "run", str(folder / "config.yaml"), "--output", str(folder / output)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    _, misses, hits = done.stdout.splitlines()[-1].split()
    return done.stdout, done.stderr, int(misses), int(hits)


def test_a_second_start_compiles_nothing(tmp_path):
    model = tmp_path / "tiny.safetensors"
    registry.save(registry.initialize(tiny_nequip((1, 6, 8), hidden_irreps="2x0e", edge_l_max=0), 0), model, {})
    (tmp_path / "config.yaml").write_text(CONFIG.format(model=model))
    output, _, misses, _ = start(tmp_path, "first")
    assert misses > 10
    # What the configuration leaves to the architecture of the model is said, and kept with the run.
    assert "around the model's weights, with a standard deviation of 0.2" in output
    kept = configuration.load(tmp_path / "first" / "config.yaml")
    assert (kept.prior.scale, kept.sampler.step_size) == (0.2, 1e-3)
    _, errors, misses_again, hits = start(tmp_path, "second")
    assert misses_again == 0 and hits >= misses
    assert errors == ""
