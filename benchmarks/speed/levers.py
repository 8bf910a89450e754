"""What each way of making a step cheaper gains, one at a time, on one device.

    python -m benchmarks.speed.levers [--only LEVER ...] [--rounds N]

With and without take turns. On a CPU the seconds are those of the processor, so that other work matters less; pin the
process to one core. Every lever is a line of `benchmarks/results/speed/levers_DEVICE.json`.
"""

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.data.graph import Graph, edge_vectors, exact_dot, flatten_neighbors, volume
from bayes_mlff.models import registry
from bayes_mlff.models.energetics import NodeFn, NodeOutput, predictor
from bayes_mlff.models.equivariant import bessel_basis, polynomial_cutoff, spherical_harmonics
from bayes_mlff.posterior import training_set as training
from bayes_mlff.posterior.likelihood import Likelihood, log_likelihood
from bayes_mlff.posterior.potential import Observations, potential_and_gradient
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.sghmc.noise import standard_normal
from benchmarks.speed import ours
from benchmarks.speed.cases import BATCH, CASES, ENERGY_SIGMA, STRESS_SIGMA, Case
from benchmarks.speed.run import RESULTS, commit, device_name, shipped

SYSTEMS = {"ethanol": shipped, "lamno3-40": shipped, "ethanol, published size": lambda _: CASES["ethanol"]()}


class Variant(NamedTuple):
    """The same work in two ways."""

    without: Callable[[], Any]
    with_it: Callable[[], Any]
    note: Callable[[], str] = str


def gradient(
    case: Case,
    *,
    wrap: Callable[[NodeFn], NodeFn] = lambda f: f,
    at_once: int | None = None,
    precision: str | None = None,
) -> Callable[[], Any]:
    """Gradient of the potential of one chain."""
    potential = registry.initialize(case.config, 0)
    flat, unravel = potential.flat()
    predict_tree = predictor(wrap(potential.node_fn), with_stress=case.with_stress)
    prior = GaussianPrior(flat, 0.2)
    function = potential_and_gradient(lambda p, graphs: predict_tree(unravel(p), graphs), prior, BATCH, at_once=at_once)
    compiled = jax.jit(function)
    likelihood = Likelihood(ENERGY_SIGMA, STRESS_SIGMA if case.with_stress else None)
    observations = Observations(ours.labels(case), likelihood)

    def once() -> Any:
        with jax.default_matmul_precision(precision) if precision else contextlib.nullcontext():
            return jax.block_until_ready(compiled(flat, jax.random.key(0), observations))

    return once


def forward_over_reverse(case: Case) -> Callable[[], Any]:
    """The gradient with the force and stress terms as a directional derivative of the energy's gradient."""
    potential = registry.initialize(case.config, 0)
    flat, unravel = potential.flat()
    node_fn = potential.node_fn
    predict = predictor(node_fn, with_stress=case.with_stress)
    likelihood = Likelihood(ENERGY_SIGMA, STRESS_SIGMA if case.with_stress else None)
    graphs, known = training.labels_of(ours.labels(case), jnp.arange(BATCH))

    def outputs(params: Any, positions: jax.Array, strain: jax.Array) -> tuple[jax.Array, jax.Array]:
        deform = jnp.eye(3)[None] + 0.5 * (strain + jnp.swapaxes(strain, -1, -2))
        positions, cell = exact_dot(positions, deform), exact_dot(graphs.cell, deform)
        node = _nodes(node_fn, params, jax.vmap(edge_vectors)(positions, cell, graphs), graphs)
        return node.energy, node.force_sigma

    def function(flat: jax.Array) -> jax.Array:
        params, flatten = unravel(flat), lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
        said = predict(params, graphs)
        wanted = jax.grad(lambda p: -jnp.sum(log_likelihood(likelihood, p, known)) / BATCH)(said)
        tangents = -wanted.forces, jnp.zeros_like(graphs.cell)
        if wanted.stress is not None:
            tangents = tangents[0], wanted.stress / volume(graphs.cell)[:, None, None]

        def along(positions: jax.Array, strain: jax.Array) -> Any:
            return jax.grad(lambda p: jnp.sum(outputs(p, positions, strain)[0]))(params)

        _, curved = jax.jvp(along, (graphs.positions, jnp.zeros_like(graphs.cell)), tangents)

        def straight(p: Any) -> jax.Array:
            energy, sigma = (x.reshape(BATCH, -1) for x in outputs(p, graphs.positions, jnp.zeros_like(graphs.cell)))
            return jnp.sum(energy * wanted.energy[:, None]) + jnp.sum(sigma * wanted.force_sigma)

        return flatten(curved) + flatten(jax.grad(straight)(params))

    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(flat))


def _nodes(node_fn: NodeFn, params: Any, vectors: jax.Array, graphs: Graph) -> NodeOutput:
    b, n, k = graphs.neighbors.shape
    senders = flatten_neighbors(graphs)
    mask = graphs.edge_mask.reshape(b * n, k)
    return node_fn(params, vectors.reshape(b * n, k, 3), graphs.species.reshape(b * n), senders, mask)


def edge_list(node_fn: NodeFn) -> NodeFn:
    """The network on a list of edges whose messages are summed by sorted segments."""

    def evaluate(params, vectors, species, neighbors, edge_mask, receivers=None):
        n, k = neighbors.shape
        rows = jnp.repeat(jnp.arange(n), k)
        return node_fn(
            params,
            vectors.reshape(n * k, 1, 3),
            species,
            neighbors.reshape(n * k, 1),
            edge_mask.reshape(n * k, 1),
            rows,
        )

    return evaluate


def geometry(case: Case) -> Callable[[], Any]:
    """What does not depend on the weights: harmonics, radial functions and their derivatives."""
    graphs, _ = training.labels_of(ours.labels(case), jnp.arange(BATCH))
    c, l_max = case.config, case.l_max
    vectors = jax.vmap(edge_vectors)(graphs.positions, graphs.cell, graphs)
    count = jnp.arange(1.0, c.num_bessels + 1.0)

    def features(v: jax.Array) -> list[jax.Array]:
        x = jnp.linalg.norm(v, axis=-1) / c.r_max
        radial = bessel_basis(x, count.reshape((1,) * x.ndim + (-1,))) * polynomial_cutoff(x, c.cutoff_power)[..., None]
        return [radial, *spherical_harmonics(v, l_max).values()]

    def twice(v: jax.Array) -> Any:
        """As often as the gradient of the force term: forward, reverse, and reverse of both."""

        def slope(v: jax.Array) -> jax.Array:
            return jax.grad(lambda u: sum(jnp.sum(jnp.sin(f)) for f in features(u)))(v)

        return slope(v), jax.grad(lambda u: jnp.sum(jnp.square(slope(u))))(v)

    compiled = jax.jit(twice)
    return lambda: jax.block_until_ready(compiled(vectors))


def noise(case: Case) -> Variant:
    """JAX's normal numbers against the same numbers in one pass."""
    size = registry.initialize(case.config, 0).flat()[0].size
    key = jax.random.key(0)
    plain = jax.jit(lambda k: jax.random.normal(k, (size,), jnp.float32))
    written_out = jax.jit(lambda k: standard_normal(k, (size,), jnp.float32))
    return Variant(
        lambda: jax.block_until_ready(plain(key)),
        lambda: jax.block_until_ready(written_out(key)),
        lambda: f"{size} numbers",
    )


def deviation(a: Callable[[], Any], b: Callable[[], Any]) -> str:
    """How far two gradients are apart."""
    x, y = (np.asarray(f()[1], np.float64) for f in (a, b))
    return f"gradients differ by {np.linalg.norm(x - y) / np.linalg.norm(x):.1e} of their length"


def in_bfloat16(case: Case) -> Variant:
    """Products of float32 matrices rounded to eight bits on the way."""
    full, short = gradient(case), gradient(case, precision="BF16_BF16_F32")
    return Variant(full, short, lambda: deviation(full, short))


def all_elements(case: Case) -> Case:
    """The same network for 89 elements."""
    count = 89
    tables = {name: getattr(case.config, name)[:1] * count for name in case.config.tables}
    known = {"elements": tuple(range(1, count + 1)), "declared_elements": count, **tables}
    return replace(case, config=case.config.model_copy(update=known))


def segments(case: Case) -> Variant:
    """Neighbours in slots of their receiver against a list of edges with sorted segment sums."""
    return Variant(gradient(case, wrap=edge_list), gradient(case))


def stop_flag(case: Case) -> Variant:
    """A hundred steps in calls of ten, and in one call."""
    ten, hundred = ours.dynamics(case, steps=10), ours.dynamics(case, steps=100)
    return Variant(lambda: [ten() for _ in range(10)], hundred)


LEVERS: dict[str, Callable[[Case], Variant]] = {
    "noise in one pass": noise,
    "chains one after the other in the place of all in one batch": lambda case: Variant(
        ours.update(case, chain_axis="vmap"), ours.update(case, chain_axis="map")
    ),
    "five structures as one graph in the place of one after the other": lambda case: Variant(
        gradient(case, at_once=1), gradient(case, at_once=BATCH)
    ),
    "structures at once as chosen by default": lambda case: Variant(gradient(case, at_once=BATCH), gradient(case)),
    "force term by forward over reverse": lambda case: Variant(
        gradient(case, at_once=BATCH), forward_over_reverse(case)
    ),
    "intermediate results computed again (remat)": lambda case: Variant(
        gradient(case), gradient(case, wrap=jax.checkpoint)
    ),
    "slots of the receiver in the place of sorted segment sums": segments,
    "elements present in the place of 89": lambda case: Variant(gradient(all_elements(case)), gradient(case)),
    "geometry computed once (share of a gradient that it takes)": lambda case: Variant(
        gradient(case, at_once=BATCH), geometry(case)
    ),
    "products in bfloat16": in_bfloat16,
    "stop flag read every 100 steps in the place of 10": stop_flag,
}


NOT_ON_CPU = ("products in bfloat16",)
"""What XLA refuses there."""


def seconds(once: Callable[[], Any]) -> float:
    """Of one call: of the processor on a CPU, else of the clock."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    start = clock()
    once()
    return clock() - start


def measure(lever: str, system: str, rounds: int) -> dict[str, Any]:
    """One line of the results."""
    variant = LEVERS[lever](SYSTEMS[system](system))
    for once in variant[:2]:
        once()
    pairs = [(seconds(variant.without), seconds(variant.with_it)) for _ in range(rounds)]
    without, with_it = (statistics.median(x) for x in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    found = {"lever": lever, "system": system, "device": device_name(), "without_s": without, "with_s": with_it}
    return found | {"ratio": ratio, "note": variant.note(), "commit": commit(), "versions": f"jax {jax.__version__}"}


def main() -> None:
    """Measure, and keep what others measured before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    possible = [lever for lever in LEVERS if lever not in NOT_ON_CPU or jax.default_backend() != "cpu"]
    parser.add_argument("--only", nargs="+", choices=possible, default=possible)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"levers_{jax.default_backend()}.json"
    for lever in args.only:
        for system in args.systems:
            line = measure(lever, system, args.rounds)
            print(json.dumps(line), flush=True)
            known = json.loads(path.read_text()) if path.is_file() else []
            known = [r for r in known if (r["lever"], r["system"]) != (lever, system)]
            path.write_text(json.dumps([*known, line], indent=1) + "\n")
            jax.clear_caches()


if __name__ == "__main__":
    main()
