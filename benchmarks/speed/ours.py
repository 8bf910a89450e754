"""Work of this package as functions that do it once and wait for the result."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bayes_mlff.data import neighbors
from bayes_mlff.data.graph import Graph, pad_slots
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble.triggers import on_energy
from bayes_mlff.md import replicas
from bayes_mlff.md.chunk import make_chunk
from bayes_mlff.md.integrators import Integrator, friction_thermostat, initial_state, thermostatted
from bayes_mlff.md.predictors import batch_predictor, ensemble_predictor
from bayes_mlff.md.schedule import build
from bayes_mlff.models import registry
from bayes_mlff.models.energetics import PredictFn, predictor
from bayes_mlff.parallel.devices import ChainDevices, chain_mesh
from bayes_mlff.posterior import training_set as training
from bayes_mlff.posterior.chains import otf_chains
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.potential import potential
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.sghmc.run import ChainAxis
from benchmarks.speed.cases import (
    BATCH,
    CHAINS,
    ENERGY_SIGMA,
    FRICTION,
    LABELS,
    STEP_SIZE,
    STRESS_SIGMA,
    Case,
    rattled,
)

Sigmas = Literal["none", "energy", "all"]

THIN = 2
"""Steps of one timed update: its compiled loop, not its start, is what counts."""


def model(case: Case) -> tuple[jax.Array, PredictFn]:
    """Random flat weights [p] and the model of them."""
    potential = registry.initialize(case.config, 0)
    flat, unravel = potential.flat()
    tree = predictor(potential.node_fn, with_stress=case.with_stress)
    return flat, lambda params, graphs: tree(unravel(params), graphs)


def chains_of(flat: jax.Array, count: int = CHAINS) -> jax.Array:
    """Weights [c, p] that differ a little."""
    noise = jax.random.normal(jax.random.key(0), (count, flat.size), flat.dtype)
    return flat[None] + 0.01 * noise


def graph_of(structure: Structure, case: Case) -> Graph:
    """Neighbours without skin or slack."""
    _, state = neighbors.allocate(structure, case.config.elements, case.config.r_max, skin=0.0, slack=1.0)
    return state.graph


def labels(case: Case) -> training.TrainingSet:
    """Random labels of rattled structures."""
    graphs = [graph_of(s, case) for s in rattled(case.structure, LABELS)]
    slots = max(g.neighbors.shape[1] for g in graphs)
    known = training.allocate(pad_slots(graphs[0], slots), LABELS)
    rng = np.random.default_rng(1)
    for graph in graphs:
        forces = rng.normal(size=graph.positions.shape)
        stress = 0.01 * rng.normal(size=(3, 3)) if case.with_stress else None
        known = training.append(known, pad_slots(graph, slots), float(rng.normal()), forces, stress)
    return known


def update(case: Case, *, chains: int = CHAINS, chain_axis: ChainAxis | None = None) -> Callable[[], None]:
    """`THIN` SGHMC steps of all chains on all local devices."""
    flat, predict = model(case)
    likelihood = Likelihood(ENERGY_SIGMA, STRESS_SIGMA if case.with_stress else None)
    sampler = otf_chains(
        predict,
        GaussianPrior(flat, 0.2),
        likelihood,
        step_size=STEP_SIZE,
        batch_size=BATCH,
        friction=FRICTION,
        cold_steps=0,
        ramp_steps=1,
        thin=THIN,
        chain_axis=chain_axis,
    )
    known, params = labels(case), chains_of(flat, chains)
    state = sampler.init(params, jax.random.key(1))
    run = ChainDevices(chains, partial(sampler.update, n_steps=THIN))

    def once() -> None:
        nonlocal params, state
        params, state, _ = jax.block_until_ready(run(params, state, known))

    once()
    return once


class Account(NamedTuple):
    """XLA's account of the gradient of one chain, batch of `BATCH`."""

    flop: float
    byte: float


def account(case: Case) -> Account:
    """Count the work of a gradient; in one piece, since loops would be counted once."""
    flat, predict = model(case)
    likelihood = Likelihood(ENERGY_SIGMA, STRESS_SIGMA if case.with_stress else None)
    gradient = jax.jit(jax.grad(potential(predict, GaussianPrior(flat, 0.2), likelihood, BATCH)))
    cost = gradient.lower(flat, jax.random.key(0), labels(case)).compile().cost_analysis()
    return Account(cost["flops"], cost["bytes accessed"])


def product_rate(rounds: int, size: int = 4096) -> float:
    """FLOP per second of a large product of float32 matrices on all local devices."""
    devices = jax.local_devices()
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
    on_each = [jax.device_put(a, device) for device in devices]
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready([product(x) for x in on_each])
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready([product(x) for x in on_each])
        seconds.append(time.perf_counter() - start)
    return len(devices) * 2.0 * size**3 / statistics.median(seconds)


def shipped_config(name: str, structure: Structure):
    """The architecture of a shipped model, for the elements of a structure."""
    elements = tuple(int(z) for z in np.unique(structure.numbers))
    return registry.restrict(registry.load(name), elements).config


def integrator() -> Integrator:
    """Langevin dynamics at 300 K."""
    return thermostatted(0.5, build((), temperature_k=300.0, pressure_gpa=0.0), friction_thermostat(0.5, 0.01))


def dynamics(case: Case, *, steps: int, chains: int = CHAINS, sigmas: Sigmas = "all") -> Callable[[], None]:
    """Langevin steps with all models that look for a reason to stop after each.

    `sigmas` says what is calculated: that of the energy is the gate, those of the forces are recorded.
    """
    flat, predict = model(case)
    spec, state = neighbors.allocate(case.structure, case.config.elements, case.config.r_max, skin=0.5)
    evaluate = ensemble_predictor(predict, ENERGY_SIGMA, STRESS_SIGMA if case.with_stress else None)
    if sigmas != "all":
        combined = evaluate

        def evaluate(params: jax.Array, graph: Graph, mesh: Mesh | None = None):
            some = combined(params, graph, mesh)  # what is not used is not compiled
            some = some._replace(forces_sigma=jnp.zeros_like(some.forces_mean))
            return some if sigmas == "energy" else some._replace(energy_sigma=jnp.zeros_like(some.energy_mean))

    chunk = make_chunk(evaluate, integrator(), spec, steps, mesh=chain_mesh(chains))
    md = initial_state(state.graph.positions, case.structure.numbers, 300.0, jax.random.key(2), cell=state.graph.cell)
    params = chains_of(flat, chains)

    def once() -> None:
        # From the same state every time: random weights would move the atoms out of their places.
        result = jax.block_until_ready(
            chunk(params, md, state, on_energy(jnp.asarray(np.inf, md.position.dtype)), jnp.asarray(steps, jnp.int32))
        )
        if int(result.steps) != steps:
            raise RuntimeError(f"stopped after {int(result.steps)} of {steps} steps: {int(result.stop)}")

    once()
    return once


def several(case: Case, *, count: int, steps: int, chains: int = CHAINS) -> Callable[[], None]:
    """The same of `count` replicas in one batch, on one device."""
    flat, predict = model(case)
    spec, state = neighbors.allocate(case.structure, case.config.elements, case.config.r_max, skin=0.5)
    stress_sigma = STRESS_SIGMA if case.with_stress else None
    evaluate = batch_predictor(predict, ENERGY_SIGMA, stress_sigma, allow_single_chain=chains == 1)
    keys = jax.random.split(jax.random.key(2), count)
    positions, cell = state.graph.positions, state.graph.cell
    each = [initial_state(positions, case.structure.numbers, 300.0, key, cell=cell) for key in keys]
    md, near = replicas.stack(each), replicas.stack([state] * count)
    chunk = replicas.make_replicas(evaluate, integrator(), spec, steps)
    params = chains_of(flat, chains)
    never, limit = on_energy(jnp.full(count, jnp.inf, positions.dtype)), jnp.full(count, steps, jnp.int32)

    def once() -> None:
        result = jax.block_until_ready(chunk(params, md, near, never, limit))
        if not bool(jnp.all(result.steps == steps)):
            raise RuntimeError(f"stopped after {result.steps} of {steps} steps: {result.stop}")

    once()
    return once
