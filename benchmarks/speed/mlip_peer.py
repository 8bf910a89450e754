"""The same work with mlip, another library on JAX: one chain or model after the other, each call compiled once.

It runs like `peer`, in mlip's environment: python -m benchmarks.speed.mlip_peer mlip sghmc ethanol
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.cases import (
    BATCH,
    CHAINS,
    ENERGY_SIGMA,
    FORCE_SIGMA,
    FRICTION,
    STEP_SIZE,
    STRESS_SIGMA,
    Case,
    rattled,
)
from benchmarks.speed.peer import MD_STEPS, serve


def force_field(case: Case) -> Any:
    """Random weights of the network, and the function that predicts with them."""
    from mlip.data import DatasetInfo
    from mlip.models import ForceField, Mace, Nequip
    from mlip.typing.properties import Properties

    c = case.config
    info = DatasetInfo(
        atomic_energies_map=dict.fromkeys(c.elements, 0.0),
        graph_cutoff_angstrom=c.r_max,
        avg_num_neighbors=c.average_neighbors,
        avg_r_min_angstrom=1.0,
    )
    if case.name == "ethanol":
        irreps = "64x0e+64x0o+64x1o+64x1e+64x2e+64x2o"
        settings = Nequip.Config(
            num_layers=c.num_layers, target_irreps=irreps, l_max=c.edge_l_max, num_rbf=c.num_bessels
        )
        network = Nequip(settings, info)
    else:
        settings = Mace.Config(
            num_layers=c.num_interactions,
            num_channels=c.width,
            l_max=c.max_ell,
            node_symmetry=1,
            correlation=c.correlation,
            num_rbf=c.num_bessels,
            residual_connection_first_layer=True,
        )
        network = Mace(settings, info)
    return ForceField.from_mlip_network(network, Properties(stress=case.with_stress))


def graph(case: Case, structures: list[Any]) -> Any:
    """Structures as one graph on the device, without padding."""
    from mlip.data.chemical_system import ChemicalSystem
    from mlip.graph import Graph
    from mlip.graph.batching_helpers import batch_graphs

    graphs = [
        Graph.from_chemical_system(
            ChemicalSystem(
                atomic_numbers=np.asarray(s.numbers),
                positions=np.asarray(s.positions, np.float32),
                cell=np.asarray(s.cell, np.float32) if case.with_stress else 20.0 * np.eye(3, dtype=np.float32),
                pbc=(case.with_stress,) * 3,
            ),
            graph_cutoff_angstrom=case.config.r_max,
        )
        for s in structures
    ]
    batch = graphs[0] if len(graphs) == 1 else batch_graphs(graphs)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if x.dtype.kind == "f" else None), batch)


def sghmc(case: Case) -> tuple[Callable[[], None], str, float]:
    """One SGHMC step with AMSGrad mass of one chain; the other chains are the same work again."""
    field, batch = force_field(case), graph(case, rattled(case.structure, BATCH))

    def potential(params: Any) -> jax.Array:
        out = field.predictor.apply(params, batch).to_prediction()
        loss = 0.5 * jnp.sum(jnp.square((out.energy - 1.0) / ENERGY_SIGMA))
        loss += 0.5 * jnp.sum(jnp.square(out.forces / FORCE_SIGMA))
        if case.with_stress:
            loss += 0.5 * jnp.sum(jnp.square(out.stress / STRESS_SIGMA))
        distance = sum(
            jnp.sum(jnp.square(w - p)) for w, p in zip(*map(jax.tree.leaves, (params, field.params)), strict=True)
        )
        return loss / BATCH + 0.5 * distance / 0.2**2

    @jax.jit
    def step(params: Any, momentum: Any, mean: Any, largest: Any, key: jax.Array) -> tuple[Any, ...]:
        gradient = jax.grad(potential)(params)
        mean = jax.tree.map(lambda m, g: 0.999 * m + 0.001 * g * g, mean, gradient)
        largest = jax.tree.map(jnp.maximum, largest, mean)
        leaves, tree = jax.tree.flatten(params)
        noise = [jax.random.normal(k, w.shape) for k, w in zip(jax.random.split(key, len(leaves)), leaves, strict=True)]

        def kick(v: jax.Array, g: jax.Array, top: jax.Array, xi: jax.Array) -> jax.Array:
            inverse = 1.0 / (jnp.sqrt(top) + 1e-4)
            drawn = jnp.sqrt(2.0 * FRICTION * STEP_SIZE * inverse) * xi
            return (1.0 - FRICTION) * v - STEP_SIZE * inverse * g + drawn

        momentum = jax.tree.map(kick, momentum, gradient, largest, jax.tree.unflatten(tree, noise))
        return jax.tree.map(lambda w, v: w + 1e-6 * v, params, momentum), momentum, mean, largest

    zeros = jax.tree.map(jnp.zeros_like, field.params)
    state = (field.params, zeros, zeros, zeros)

    def once() -> None:
        nonlocal state
        state = jax.block_until_ready(step(*state, jax.random.key(0)))

    return once, _versions(), CHAINS


def dynamics(case: Case) -> tuple[Callable[[], None], str, float]:
    """Energies and forces of all models in a row, without the rest of a step of dynamics."""
    field, single = force_field(case), graph(case, [case.structure])
    predict = jax.jit(lambda params: field.predictor.apply(params, single).to_prediction().forces)

    def once() -> None:
        for _ in range(MD_STEPS[case.name]):
            for _ in range(CHAINS):
                jax.block_until_ready(predict(field.params))

    return once, _versions(), 1.0 / MD_STEPS[case.name]


def _versions() -> str:
    from importlib.metadata import version

    return f"mlip {version('mlip')}, jax {jax.__version__}"


if __name__ == "__main__":
    serve(lambda _, task, case: {"sghmc": sghmc, "md": dynamics}[task](case))
