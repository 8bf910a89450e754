"""Runs of a Lennard-Jones cluster whose model and reference have planted faults."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.core.errors import EngineFailedError
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.models import registry
from bayes_mlff.models.energetics import Prediction
from bayes_mlff.otf import config
from bayes_mlff.otf.integrator import make_integrator
from bayes_mlff.otf.problem import prepare
from bayes_mlff.sghmc.run import Info
from tests.support.tiny_runs import TINY

EPSILON, SIGMA = 0.2, 1.4


THRESHOLD = 0.004


QUIET = 5e-4


"""σ below the first critical one, which is 0.224 thresholds."""


TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * SIGMA * 2 ** (1 / 6) / np.sqrt(8)


class Interrupted(BaseException):
    """Stands for a kill."""


class Planted:
    """The reference, with a fault at chosen calls; counts from 1."""

    def __init__(self, inner, fault=None, at=lambda call: False):
        self._inner, self._fault, self._at, self.calls = inner, fault, at, 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def label(self, structure):
        self.calls += 1
        if self._at(self.calls):
            return self._fault(self._inner, structure)
        return self._inner.label(structure)


def fails(inner, structure):
    raise EngineFailedError("planted failure")


def dies(inner, structure):
    raise Interrupted


def jumps(inner, structure):
    """Energy and forces of different origin."""
    result = inner.label(structure)
    return result._replace(label=result.label._replace(energy=result.label.energy + 0.3))


def lennard_jones(positions, dtype):
    n = positions.shape[0]
    apart = positions[:, None, :] - positions[None, :, :] + jnp.eye(n, dtype=dtype)[:, :, None]
    inverse = (SIGMA**2 / jnp.sum(apart**2, axis=-1)) ** 3
    return 2.0 * EPSILON * jnp.sum(jnp.where(jnp.eye(n, dtype=bool), jnp.zeros([], dtype), inverse**2 - inverse))


_PREPARED = []


def prepared(parsed):
    """Functions that do not depend on what the tests vary, made once."""
    if not _PREPARED:
        structure = Structure(np.full(4, 6), TETRAHEDRON, np.zeros((3, 3)), np.zeros(3, bool))
        _PREPARED.append(prepare(parsed, structure, registry.initialize(TINY, 0)))
    return _PREPARED[0]


def make_problem(*, sigma=QUIET, wrong=0.0, begin=None, positions=TETRAHEDRON, chains_finite=True, **changes):
    """A run of four carbon atoms; `wrong` is the standard deviation of a planted, rapidly changing energy error."""
    raw = {
        "structure": "four.xyz",
        "threshold": f"{THRESHOLD} eV",
        "seed": changes.pop("seed", 0),
        "sampler": {"chains": 2, "steps": 30, "cold_steps": 5, "ramp_steps": 5},
        "dynamics": {"duration_ps": 0.05, "temperature_k": 300.0, "chunk_steps": 8, "trajectory_every": 1}
        | changes.pop("dynamics", {}),
        "engine": {
            "name": "ase",
            "calculator": "ase.calculators.lj:LennardJones",
            "arguments": {"epsilon": EPSILON, "sigma": SIGMA, "rc": 50.0},
        },
        "audits": {"interval_ps": 0.004},
    } | changes
    parsed = config.parse(raw)
    structure = Structure(np.full(4, 6), np.array(positions), np.zeros((3, 3)), np.zeros(3, bool))
    problem = prepared(parsed)._replace(
        config=parsed, structure=structure, integrator=make_integrator(parsed.dynamics, structure)
    )
    problem = problem._replace(energy_sigma_ev=0.0)  # planted σ have no constant part

    def evaluate(params, graph):
        dtype = graph.positions.dtype
        energy, slope = jax.value_and_grad(lennard_jones)(graph.positions, dtype)
        energy = energy + 2.0**0.5 * wrong * jnp.sin(1e4 * jnp.sum(graph.positions))
        one = jnp.full((1,), sigma, dtype)
        return Predictive(
            energy_mean=energy[None],
            energy_sigma=one,
            forces_mean=-slope[None],
            forces_sigma=jnp.full_like(slope, 0.01)[None],
            stress_mean=None,
            stress_sigma=None,
            chain_energy=energy[None, None],
            forces_dof=jnp.full_like(slope[:, 0], 3.0)[None],
        )

    def predict(params, graphs):
        dtype = graphs.positions.dtype
        energy, slope = jax.vmap(jax.value_and_grad(lennard_jones), in_axes=(0, None))(graphs.positions, dtype)
        return Prediction(energy, -slope, None, jnp.ones_like(slope[..., 0]))

    def update(params, state, training_set, n_steps=30):
        nothing = jnp.zeros((2, 1), params.dtype)
        return (params if chains_finite else params * jnp.nan), state, Info(nothing, nothing, nothing == 0.0)

    integrator = problem.integrator if begin is None else problem.integrator._replace(begin=begin(problem.integrator))
    return problem._replace(
        evaluate=evaluate, predict=predict, chains=problem.chains._replace(update=update), integrator=integrator
    )


def breaks_at(step):
    """An integrator that loses a position at one step."""

    def wrap(integrator):
        def begin(md):
            moved = integrator.begin(md)
            lost = jnp.where(md.step == step - 1, jnp.nan, 0.0).astype(moved.position.dtype)
            return moved.set(position=moved.position + lost)

        return begin

    return wrap


def engine_of(problem, *fault):
    return Planted(make_engine(problem.config.engine), *fault)


def finish(session):
    state = session.finish(session.resume())
    session.run.close()
    return state


def events(path, name):
    lines = (json.loads(line) for line in (path / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == name]


def thermo(path):
    return np.genfromtxt(path / "thermo.csv", delimiter=",", names=True)


def frames(path):
    import ase.io

    return {atoms.info["step"]: atoms.positions for atoms in ase.io.read(path / "trajectory.extxyz", index=":")}
