"""Models are saved and found again unchanged, and weights that do not fit are refused by name."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.models import catalogue
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.models.mace import MACE
from bayes_mlff.models.registry import (
    Potential,
    fill,
    initialize,
    load,
    network,
    per_element,
    restrict,
    save,
)
from bayes_mlff.testing.tiny import tiny_mace, tiny_nequip

CONFIG = tiny_nequip(
    (1, 8),
    radial_depth=2,
    hidden_irreps="4x0e+3x1o",
    num_layers=2,
    embedding_features=3,
    radial_width=5,
    num_bessels=4,
    energy_scales=(1.0, 2.0),
    energy_shifts=(-13.6, -2041.25),
)

SMALL_MACE = tiny_mace(
    (1, 8), num_bessels=3, radial_widths=(3,), sigma_widths=(4,), energy_scale=1.5, energy_shifts=(-13.6, -2041.25)
)


@pytest.fixture(scope="module")
def potential():
    return initialize(CONFIG, 0, jnp.float64)


@pytest.fixture
def saved(potential, tmp_path):
    path = tmp_path / "model.safetensors"
    save(potential, path, {"provenance": "a test"})
    return path


def test_save_and_load_is_exact(potential, saved):
    again = load(str(saved), dtype=jnp.float64)
    assert again.config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, again.params, potential.params)


def test_save_and_load_of_mace_is_exact(tmp_path):
    potential = initialize(SMALL_MACE, 0, jnp.float64)
    save(potential, tmp_path / "mace.safetensors", {})
    again = load(str(tmp_path / "mace.safetensors"), dtype=jnp.float64)
    assert again.config == SMALL_MACE and isinstance(network(again.config), MACE)
    jax.tree.map(np.testing.assert_array_equal, again.params, potential.params)
    assert again.isolated_energy(np.array([1, 8, 1])) == -13.6 * 2 - 2041.25


def test_restriction_to_some_elements_keeps_the_energies(potential):
    part = restrict(potential, (8,))
    assert part.config.elements == (8,)
    assert (part.config.energy_scales, part.config.energy_shifts) == ((2.0,), (-2041.25,))
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 3)))
    neighbors, mask = jnp.array([[1, 2], [0, 2], [0, 1]]), jnp.ones((3, 2), bool)
    species = jnp.ones(3, jnp.int32)
    whole = jax.jit(potential.node_fn)(potential.params, vectors, species, neighbors, mask)
    alone = jax.jit(part.node_fn)(part.params, vectors, 0 * species, neighbors, mask)
    np.testing.assert_allclose(alone.energy, whole.energy, rtol=1e-13)


@pytest.mark.parametrize("one_hot", [False, True])
def test_self_connections_of_each_element_keep_the_energies(one_hot):
    wide = CONFIG.model_copy(update={"embedding_features": 9, "one_hot_embedding": one_hot})
    before = initialize(wide, 0, jnp.float64)
    after = per_element(before)
    assert after.config.self_connection == "element" and per_element(after) is after
    assert after.flat()[0].size < before.flat()[0].size
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 3)))
    neighbors, mask = jnp.array([[1, 2], [0, 2], [0, 1]]), jnp.ones((3, 2), bool)
    species = jnp.array([0, 1, 0])
    said = [jax.jit(p.node_fn)(p.params, vectors, species, neighbors, mask) for p in (before, after)]
    np.testing.assert_allclose(said[1].energy, said[0].energy, rtol=1e-12)
    template = jax.eval_shape(lambda: initialize(after.config, 0, jnp.float64).params)
    assert jax.tree.map(jnp.shape, after.params) == jax.tree.map(jnp.shape, template)


@pytest.mark.parametrize("elements", [(), (1, 6)])
def test_restriction_to_unknown_elements_is_refused(potential, elements):
    with pytest.raises(ValueError, match=r"elements.*\[1, 8\]"):
        restrict(potential, elements)


def test_saving_does_not_depend_on_the_order_in_memory(potential, tmp_path):
    disordered = jax.tree.map(np.asfortranarray, potential.params)
    save(Potential(CONFIG, disordered), tmp_path / "model.safetensors", {})
    again = load(str(tmp_path / "model.safetensors"), dtype=jnp.float64)
    jax.tree.map(np.testing.assert_array_equal, again.params, potential.params)


def test_dtype_of_loaded_weights(saved):
    assert {x.dtype for x in jax.tree.leaves(load(str(saved), dtype=jnp.float32).params)} == {np.dtype(np.float32)}


def test_weights_have_unit_variance_and_follow_the_seed(potential):
    other = initialize(CONFIG, 1, jnp.float64)
    weights = {k: v for k, v in flatten_dict(potential.params, sep="/").items() if k.endswith("weight")}
    everything = np.concatenate([np.ravel(v) for v in weights.values()])
    # 200 or more normal numbers: |mean| < 4.5/sqrt(n) and |variance - 1| < 4.5 sqrt(2/n), false alarms 1e-5.
    assert abs(everything.mean()) < 4.5 / np.sqrt(everything.size)
    assert abs(everything.var() - 1.0) < 4.5 * np.sqrt(2.0 / everything.size)
    assert not np.array_equal(potential.flat()[0], other.flat()[0])
    np.testing.assert_array_equal(potential.flat()[0], initialize(CONFIG, 0, jnp.float64).flat()[0])


def test_flat_weights_return_to_their_places(potential):
    vector, unravel = potential.flat()
    assert vector.ndim == 1
    jax.tree.map(np.testing.assert_array_equal, unravel(vector), potential.params)


def test_isolated_energy_is_summed_in_double_precision(potential):
    assert potential.isolated_energy(np.array([1, 8, 1])) == -13.6 * 2 - 2041.25


def test_models_of_packages_that_are_missing_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"run\.model.*sevennet-0.*pip install 'bayes-mlff\[sevennet\]'"):
        load("sevennet-0", key="run.model")


def test_converted_models_are_taken_from_the_cache(potential, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = catalogue.cached("sevennet-0", str(catalogue.ENTRIES["sevennet-0"].sha256))
    assert path.parent == tmp_path / "bayes_mlff"
    path.parent.mkdir()
    save(potential, path, {})
    assert load("sevennet-0").config == CONFIG


def test_old_configurations_count_their_elements():
    stored = {k: v for k, v in CONFIG.model_dump().items() if k != "declared_elements"}
    assert NequIPConfig.model_validate(stored) == CONFIG and CONFIG.declared_elements == 2


@pytest.mark.parametrize("name", ["no-such-model", "missing.safetensors"])
def test_unknown_models_are_refused_with_what_there_is(name):
    with pytest.raises(ConfigError, match=rf"run\.model.*{name}.*nequip-md17-small"):
        load(name, key="run.model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "embedding"}, "missing embedding"),
        (lambda w: w | {"extra/weight": np.ones(2)}, "unused extra/weight"),
        (lambda w: w | {"embedding": np.ones((2, 4))}, r"embedding has shape \(2, 4\), expected \(2, 3\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(saved, change, message):
    save_file(change(load_file(saved)), saved, metadata={"config": CONFIG.model_dump_json()})
    with pytest.raises(WeightsError, match=message):
        load(str(saved))


def test_files_without_a_configuration_are_refused(saved):
    save_file(load_file(saved), saved, metadata={"provenance": "elsewhere"})
    with pytest.raises(WeightsError, match="no model configuration"):
        load(str(saved))


def test_every_misfit_is_named_at_once(potential):
    with pytest.raises(WeightsError, match=r"here: missing .*missing .*unused a") as caught:
        fill(potential.params, {"a": np.ones(1)}, "here")
    assert str(caught.value).count("missing") == len(jax.tree.leaves(potential.params))
