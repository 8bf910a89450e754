"""Models are saved and found again unchanged, and weights that do not fit are refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.models.registry import SHIPPED, fill, initialize, load, save

CONFIG = NequIPConfig(
    elements=(1, 8),
    r_max=3.0,
    hidden_irreps="4x0e+3x1o",
    num_layers=2,
    edge_l_max=1,
    embedding_features=3,
    radial_width=5,
    num_bessels=4,
    average_neighbors=5.0,
    sigma_widths=(4,),
    energy_scales=(1.0, 2.0),
    energy_shifts=(-13.6, -2041.25),
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


def test_dtype_of_loaded_weights(saved):
    assert {x.dtype for x in jax.tree.leaves(load(str(saved), dtype=jnp.float32).params)} == {np.dtype(np.float32)}


def test_weights_have_unit_variance_and_follow_the_seed(potential):
    other = initialize(CONFIG, 1, jnp.float64)
    weights = {k: v for k, v in flatten_dict(potential.params, sep="/").items() if k.endswith("weight")}
    everything = np.concatenate([np.ravel(v) for v in weights.values()])
    # 500 or more normal numbers: |mean| < 4.5/sqrt(n) and |variance - 1| < 4.5 sqrt(2/n), false alarms 1e-5.
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


@pytest.mark.parametrize("name", ["no-such-model", "missing.safetensors"])
def test_unknown_models_are_refused_with_what_there_is(name):
    with pytest.raises(ConfigError, match=rf"run\.model.*{name}.*{next(iter(SHIPPED))}"):
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
