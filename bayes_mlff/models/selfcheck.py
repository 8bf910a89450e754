"""Checks that JAX computes correct numbers on this machine, once for every version and device.

Shipped models are evaluated in float32 and compared with stored float64 values, and operations that some releases
of JAX compiled wrongly are tested; see `selfcheck_operations` and `scripts/make_selfcheck_reference.py`.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import numpy as np

from bayes_mlff.core.errors import BrokenInstallationError
from bayes_mlff.core.paths import cache_folder
from bayes_mlff.data import neighbors
from bayes_mlff.data.structure import Structure
from bayes_mlff.models import registry, selfcheck_operations
from bayes_mlff.models.energetics import Prediction, predictor

REFERENCE: Final = "selfcheck.json"

TOLERANCE: Final = 2e-4
"""Largest deviation in units of the largest component; float32 deviates by about 1e-5 on a CPU."""

ACCELERATOR_TOLERANCE: Final = 3e-2
"""The same for accelerators, which may round factors of float32 products to ten bits (TF32)."""

TIMEOUT_S: Final = 120.0
"""Time limit of the process that tests the operations."""


class Case(NamedTuple):
    """A structure and the float64 prediction of a shipped model for it."""

    model: str  # name of a shipped model
    structure: Structure
    energy: float  # eV, without the isolated atoms
    forces: np.ndarray  # [n, 3] eV/Å
    stress: np.ndarray | None  # [3, 3] eV/Å³, None for molecules


def ensure(say: Callable[[str], None] | None = None) -> bool:
    """Check this installation, unless it was checked before.

    Args:
      say: receives a line of text if a check is made.

    Returns:
      True if it was checked now, False if it was checked before.

    Raises:
      BrokenInstallationError: naming versions, device and deviation, if numbers are wrong.
    """
    done = cache_folder() / f"selfcheck-{_digest()}.json"
    if done.is_file():
        return False
    if say is not None:
        say("checking once that JAX computes correct numbers on this machine")
    deviations = check()
    try:
        done.parent.mkdir(parents=True, exist_ok=True)
        unfinished = done.with_name(f"{done.name}.{os.getpid()}")
        unfinished.write_text(json.dumps({**_installation(), "deviations": deviations}, indent=2) + "\n")
        unfinished.replace(done)
    except OSError:
        return True  # without a cache the check is repeated every time
    return True


def check() -> dict[str, float]:
    """Check this installation, whether or not it has been checked before.

    Returns:
      The largest deviation of each model, in units of the largest component.

    Raises:
      BrokenInstallationError: see `ensure`.
    """
    problems = _operations()
    deviations = {} if problems else {case.model: deviation(case) for case in cases()}
    allowed = TOLERANCE if jax.default_backend() == "cpu" else ACCELERATOR_TOLERANCE
    problems += [
        f"{name} deviates by {value:.2g} of the largest component (allowed: {allowed:g})"
        for name, value in deviations.items()
        if not value <= allowed
    ]
    if problems:
        here = ", ".join(f"{key} {value}" for key, value in _installation().items() if value)
        raise BrokenInstallationError(
            f"JAX computes wrong numbers here: {'; '.join(problems)}. This is {here}. "
            "Unset XLA_FLAGS, and install the versions that are asked for: pip install --force-reinstall bayes-mlff"
        )
    return deviations


def cases() -> list[Case]:
    """The stored structures and reference values."""
    return [
        Case(
            stored["model"],
            Structure(
                np.array(stored["numbers"], np.int64),
                np.array(stored["positions"], np.float64),
                np.array(stored["cell"], np.float64),
                np.array(stored["pbc"], bool),
            ),
            float(stored["energy"]),
            np.array(stored["forces"], np.float64),
            None if stored["stress"] is None else np.array(stored["stress"], np.float64),
        )
        for stored in json.loads(_reference())
    ]


def deviation(case: Case) -> float:
    """Largest deviation of energy, forces and stress in float32, each in units of its largest component."""
    got = evaluate(case.model, case.structure, np.float32)
    pairs: list[tuple[Any, Any]] = [(got.energy, case.energy), (got.forces, case.forces)]
    pairs += [] if case.stress is None else [(got.stress, case.stress)]
    return max(float(np.max(np.abs(np.asarray(a[0], np.float64) - b)) / np.max(np.abs(b))) for a, b in pairs)


def evaluate(model: str, structure: Structure, dtype: type) -> Prediction:
    """Prediction of a shipped model for one structure, as a batch of one."""
    elements = tuple(int(z) for z in np.unique(structure.numbers))
    potential = registry.restrict(registry.load(model, dtype=dtype), elements)
    config = potential.config
    _, state = neighbors.allocate(structure, config.elements, config.r_max, skin=0.0, slack=1.0, dtype=dtype)
    predict = jax.jit(predictor(potential.node_fn, with_stress=structure.is_periodic))
    return predict(potential.params, jax.tree.map(lambda leaf: leaf[None], state.graph))


def _operations() -> list[str]:
    """Failed operations; on a CPU they are tested in a separate process, since some releases crash or hang."""
    if jax.default_backend() != "cpu":
        return selfcheck_operations.failures()
    command = [sys.executable, str(selfcheck_operations.__file__)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    try:
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return [f"simple operations hang (no result within {TIMEOUT_S:g} s)"]
    if ran.returncode != 0:
        last = (ran.stderr.strip().splitlines() or [""])[-1]
        return [f"simple operations crash (exit status {ran.returncode}: {last[:200]})"]
    return [f"{line} are wrong" for line in ran.stdout.split("\n") if line.strip()]


def _installation() -> dict[str, str]:
    """Versions and device that affect the numbers."""
    device = jax.devices()[0]
    kind = device.device_kind if device.platform != "cpu" else _processor()
    return {
        "bayes-mlff": importlib.metadata.version("bayes-mlff"),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "platform": device.platform,
        "device": kind,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def _processor() -> str:
    """The processor type, for which JAX only says cpu; needed since different machines can share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _digest() -> str:
    content = json.dumps(_installation(), sort_keys=True) + _reference()
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def _reference() -> str:
    return Path(str(resources.files("bayes_mlff.models") / "pretrained" / REFERENCE)).read_text(encoding="utf-8")
