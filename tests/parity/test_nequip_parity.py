"""NequIP gives the numbers of nequip 0.19.1: against frozen ones, and live where it is installed."""

import functools

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from bayes_mlff.core.errors import WeightsError
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.models.force_sigma import SIGMA_UNIT
from bayes_mlff.models.importers.torch_weights import PREFIX, Source, from_nequip, to_nequip
from bayes_mlff.models.registry import Potential
from bayes_mlff.testing.model_battery import Evaluator, Model
from tests.parity import make_reference as reference
from tests.support import frozen_numbers
from tests.support.parity import assert_same

CASES = list(reference.cases())
SMALL = [name for name in CASES if "blocks" not in name]


frozen = functools.partial(frozen_numbers.frozen, reference.PATH)
frozen_structure = functools.partial(frozen_numbers.frozen_structure, reference.PATH)


@functools.cache
def frozen_case(name):
    entry = frozen()[0]["cases"][name]
    source = Source(tuple(entry["source"]["type_names"]), entry["source"]["hidden_irreps"])
    case = reference.Case(NequIPConfig.model_validate(entry["config"]), source, entry["trainable_bessels"])
    return case, reference.known_state({k: tuple(v) for k, v in entry["shapes"].items()}, case)


def evaluate(potential, structures):
    """Energy without isolated atoms, forces and virial of each structure; one compilation for all."""
    config = potential.config
    evaluator = Evaluator(Model(potential.node_fn, potential.params, config.elements, config.r_max))
    results = []
    for out in evaluator(structures):
        np.testing.assert_allclose(out.sigma, SIGMA_UNIT, rtol=1e-12)
        results.append((out.energy, out.forces, out.virial))
    return results


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "five blocks" else []) for name in CASES]
)
def test_frozen_reference(name):
    case, state = frozen_case(name)
    potential = Potential(case.config, from_nequip(state, case.config, case.source))
    labels = list(reference.STRUCTURES)
    for label, got in zip(labels, evaluate(potential, [frozen_structure(label) for label in labels]), strict=True):
        energy, forces, virial = (frozen()[1][f"{name}/{label}/{k}"] for k in ("energy", "forces", "virial"))
        assert_same(got, (energy - potential.isolated_energy(frozen_structure(label).numbers), forces, virial))


@pytest.mark.optimized
def test_what_is_compiled_as_for_users_gives_the_same_numbers():
    test_frozen_reference("natural parity")


@pytest.mark.parametrize("name", SMALL)
def test_frozen_numbers_are_those_of_nequip(name):
    """The network need not be compiled again: what the frozen numbers say is compared with it above."""
    pytest.importorskip("nequip")
    case, frozen_state = frozen_case(name)
    model = reference.build(reference.cases()[name])
    state, _ = reference.load_known(model, case)
    params = from_nequip(state, case.config, case.source)
    jax.tree.map(np.testing.assert_array_equal, params, from_nequip(frozen_state, case.config, case.source))
    for label, structure in reference.STRUCTURES.items():
        got = reference.evaluate(model, case.source.type_names, case.config.r_max, structure)
        assert_same(got, [frozen()[1][f"{name}/{label}/{k}"] for k in frozen_numbers.OBSERVABLES])
    again = to_nequip(params, case.config, case.source, state)
    model.load_state_dict({k: model.state_dict()[k].new_tensor(v) for k, v in again.items()}, strict=True)


@pytest.mark.parametrize("name", SMALL)
def test_round_trip_is_exact(name):
    case, state = frozen_case(name)
    rng = np.random.default_rng(3)
    there = from_nequip(state, case.config, case.source)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape), there)
    back = flatten_dict(
        from_nequip(to_nequip(params, case.config, case.source, state), case.config, case.source), sep="/"
    )
    for key, value in flatten_dict(params, sep="/").items():
        if not key.startswith("sigma/"):
            np.testing.assert_array_equal(back[key], value, err_msg=key)
    again = to_nequip(there, case.config, case.source, state)
    for key, value in state.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)


def _without(state, key):
    return {k: v for k, v in state.items() if k != key}


EMBEDDING = f"{PREFIX}type_embed.embed_module.weight"
SCALES = f"{PREFIX}per_type_energy_scale_shift.scales"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: _without(s, EMBEDDING), f"missing {EMBEDDING}"),
        (lambda s: _without(s, SCALES), f"missing {SCALES}"),
        (lambda s: s | {f"{PREFIX}pair.a": np.ones(3)}, f"unused {PREFIX}pair.a"),
        (lambda s: s | {f"{PREFIX}layer0_convnet.conv.linear_1.bias": np.ones(3)}, "unused .*linear_1.bias"),
        (lambda s: s | {EMBEDDING: np.ones((3, 5))}, "has 15 numbers, expected 21"),
        (lambda s: s | {SCALES: s[SCALES] * 1.1}, "per_type_energy_scale_shift.scales is .* configured"),
        (lambda s: s | {f"{PREFIX}edge_norm._rmax_recip": np.array(0.2)}, "_rmax_recip is"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message):
    case, state = frozen_case("both parities")
    with pytest.raises(WeightsError, match=message):
        from_nequip(change(state), case.config, case.source)


@pytest.mark.parametrize(
    "source", [Source(("H", "C"), "5x0e"), Source(("H", "C", "O"), "5x0e+3x0o+4x1e+6x1o+2x2e+4x2o")]
)
def test_other_declarations_are_refused(source):
    case, state = frozen_case("both parities")
    with pytest.raises(WeightsError, match=r"type_names|hidden_irreps"):
        from_nequip(state, case.config, source)


def test_frozen_file_is_small_and_says_where_it_comes_from():
    assert reference.PATH.stat().st_size < 300_000
    assert "nequip 0.19.1" in frozen()[0]["provenance"]
