"""A new architecture is one module and one row of the table: all that takes models takes it then."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.ensemble import saved
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.finetune import config as finetune_config
from bayes_mlff.finetune import identity, plan
from bayes_mlff.models import architectures, layers, registry
from bayes_mlff.models.architectures import ARCHITECTURES
from bayes_mlff.models.config import ArchitectureConfig, NequIPConfig
from bayes_mlff.models.energetics import predictor
from bayes_mlff.models.force_sigma import SIGMA_UNIT
from bayes_mlff.otf import config, problem, systems
from bayes_mlff.posterior import training_set
from bayes_mlff.posterior.settings import ParallelChains, PriorSettings
from bayes_mlff.posterior.transfer import around_prior_mean, prior_mean
from bayes_mlff.report.export import export, of_run
from bayes_mlff.testing import structures
from bayes_mlff.testing.model_battery import Model, ModelBattery, padded_graph
from tests.support.bad_weights import TINY
from tests.support.pair_network import PAIR, ROW, PairConfig, PairNetwork, registered

EVERY = {row.name: row for row in (*ARCHITECTURES.values(), ROW)}
SMALLEST: dict[str, ArchitectureConfig] = {c.architecture: c for c in (*TINY, PAIR)}
ETHANOL = structures.ethanol()


class Chains(NamedTuple):
    """What of the state of a run is exported."""

    params: np.ndarray


@pytest.fixture(autouse=True, scope="module")
def _known():
    with registered():
        yield


@pytest.fixture(scope="module")
def potential():
    return registry.initialize(PAIR, 0, jnp.float64)


@pytest.fixture
def model_file(tmp_path):
    registry.save(registry.initialize(PAIR, 0), tmp_path / "pair.safetensors", {})
    return tmp_path / "pair.safetensors"


class TestPairNetwork(ModelBattery):
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        made = registry.initialize(PAIR, 0, jnp.float64)
        return Model(made.node_fn, made.params, PAIR.elements, PAIR.r_max)


def test_saved_and_found_again(potential, tmp_path):
    registry.save(potential, tmp_path / "pair.safetensors", {})
    again = registry.load(str(tmp_path / "pair.safetensors"), dtype=jnp.float64)
    assert again.config == PAIR and isinstance(registry.network(again.config), PairNetwork)
    jax.tree.map(np.testing.assert_array_equal, again.params, potential.params)


def test_files_of_architectures_that_are_not_there_are_refused_by_name(potential, model_file, monkeypatch):
    monkeypatch.delitem(ARCHITECTURES, "pair")
    with pytest.raises(WeightsError, match=r"pair\.safetensors.*'nequip', 'mace', 'equiformer_v2'"):
        registry.load(str(model_file))
    with pytest.raises(
        ValueError, match=r"architecture: got 'pair'; allowed: one of \['equiformer_v2', 'mace', 'nequip'\]"
    ):
        potential.node_fn(potential.params, *(jnp.zeros(1),) * 4)


def test_settings_that_do_not_fit_are_refused_by_name(model_file):
    metadata = PAIR.model_copy(update={"hardness": (1.0, 2.0)}).model_dump_json()
    save_file(load_file(model_file), model_file, metadata={"config": metadata})
    with pytest.raises(WeightsError, match="hardness needs one number for each of the 3 elements"):
        registry.load(str(model_file))


def test_fewer_elements_are_the_same_potential(potential):
    part = registry.restrict(potential, (8, 1))
    assert part.config == PAIR.model_copy(
        update={"elements": (1, 8), "hardness": (0.5, 0.9), "energy_shifts": (-1.0, -3.0)}
    )
    water = structures.ethanol()._replace(numbers=np.array([8, 1, 1]), positions=ETHANOL.positions[:3])
    said = []
    for each in (potential, part):
        graph = padded_graph(water, each.config.elements, PAIR.r_max, 4, 8)
        predict = jax.jit(predictor(each.node_fn, with_stress=False))
        said.append(predict(each.params, jax.tree.map(lambda x: jnp.asarray(x)[None], graph)))
    np.testing.assert_allclose(said[1].energy, said[0].energy, rtol=1e-12)
    assert potential.isolated_energy(water.numbers) == part.isolated_energy(water.numbers) == -5.0


@pytest.mark.parametrize("name", sorted(EVERY))
def test_rows_are_about_the_networks_that_they_name(name):
    """Paths, axes and counts of a row are those of the network's parameters."""
    row, settings = EVERY[name], SMALLEST[name]
    assert row.name == name == settings.architecture and architectures.of(settings) is row
    made = registry.initialize(settings, 0)
    flat = flatten_dict(made.params)
    assert 1 <= row.most_layers(settings) <= len(flat)
    assert 0 < layers.last_readout(made).size == np.size(flat[row.last_layer(settings)])
    (bias,) = layers.last_sigma_bias(made)
    louder = layers.with_force_sigma(made, made.flat()[0], 7.0 * SIGMA_UNIT)
    assert louder[bias] == pytest.approx(np.log(7.0)) and np.sum(louder != made.flat()[0]) == 1
    fewer = registry.restrict(made, settings.elements[:1])
    wanted = jax.eval_shape(lambda: registry.initialize(fewer.config, 0).params)
    assert jax.tree.map(jnp.shape, fewer.params) == jax.tree.map(jnp.shape, wanted)
    assert len(jax.tree.leaves(fewer.params)) == len(flat) and fewer.flat()[0].size < made.flat()[0].size


def test_a_row_about_another_network_is_noticed(potential, monkeypatch):
    wrong = ROW.__class__(**(vars(ROW) | {"last_layer": lambda config: ("readout", "weight")}))
    monkeypatch.setitem(ARCHITECTURES, "pair", wrong)
    with pytest.raises(KeyError, match="pair has no parameter readout/weight"):
        layers.last_readout(potential)


def test_samples_are_kept_in_one_file(potential, tmp_path):
    flat = np.asarray(potential.flat()[0])
    parts = (PAIR, jnp.asarray(np.stack([flat, 1.1 * flat])), np.zeros((2, 3)), SigmaFactors(), 0.01, 1.0, "")
    saved.save(Ensemble(*parts), tmp_path / "ensemble.safetensors")
    again = saved.load(tmp_path / "ensemble.safetensors")
    assert again.architecture == PAIR
    np.testing.assert_array_equal(again.atomic_reference_energy(np.array([8, 1, 1])), [-5.0, -5.0])
    graph = jax.tree.map(jnp.asarray, padded_graph(ETHANOL, PAIR.elements, PAIR.r_max, 9, 12))
    graphs = jax.tree.map(lambda x: x[None], graph)
    predict = jax.jit(again.predict_fn(with_stress=False))
    first, second = (predict(params, graphs).energy for params in again.samples)
    own = jax.jit(predictor(potential.node_fn, with_stress=False))(potential.params, graphs).energy
    assert first == pytest.approx(float(own[0]), rel=1e-12) and first != second


def test_a_run_learns_with_it_from_a_file(model_file):
    """Configuration, prior, an update of the chains after a label, and what they then predict."""
    sampler = {"chains": 2, "steps": 20, "cold_steps": 4, "ramp_steps": 2, "batch_size": 1}
    parsed = config.parse({"structure": "ethanol", "model": str(model_file), "sampler": sampler})
    start = systems.initial_structure(parsed.structure, base=model_file.parent).structure
    whole = registry.for_atoms(registry.load(parsed.model), start.numbers)
    made = problem.prepare(parsed, start, whole)
    assert (made.config.prior.scale, made.config.sampler.step_size) == (0.3, 2e-3)
    assert made.prior.scale == 0.3
    graph = problem.learning_graph(made, start)
    labels = training_set.append(training_set.allocate(graph, 1), graph, 0.5, np.zeros((9, 3)), None)
    first = problem.first_parameters(made, jax.random.key(0))
    chains, _, info = made.chains.update(first, made.chains.init(first, jax.random.key(1)), labels, n_steps=20)
    assert np.all(info.finite) and np.all(np.any(np.asarray(chains) != np.asarray(first), axis=1))
    said = jax.jit(made.evaluate)(chains, graph)
    assert np.isfinite(said.energy_mean) and said.energy_sigma > 0.0 and np.asarray(said.forces_mean).any()


def test_fine_tuning_takes_what_the_row_says(potential):
    parsed = finetune_config.parse({"data": {"train": "a.npz"}})
    assert plan.make_plan(parsed, potential).prior.scale == 0.3
    stated = identity.stated(parsed, potential)
    assert (stated.prior.scale, stated.sampler.step_size) == (0.3, 2e-3)
    mean = prior_mean(potential)
    drawn = around_prior_mean(potential, plan.make_plan(parsed, potential).prior, 1.0, 500, jax.random.key(0))
    # 500 draws of 36 weights: the standard deviation is known to 0.5 % (one σ), false alarms 1e-8.
    assert float(jnp.std(drawn - mean[None])) == pytest.approx(0.3, rel=0.03)
    head = np.concatenate([np.full(v.size, k[0] == "sigma") for k, v in sorted(flatten_dict(potential.params).items())])
    assert not np.asarray(mean)[head].any() and np.asarray(mean)[~head].all()


@pytest.mark.parametrize("given", [None, 0.7])
@pytest.mark.parametrize(("name", "scale"), [("nequip", 0.2), ("mace", 0.5)])
def test_the_prior_is_that_of_the_architecture_on_the_fly_and_in_fine_tuning(name, scale, given):
    """The papers' values, unless the configuration has its own."""
    made = registry.initialize(SMALLEST[name], 0)
    wanted = scale if given is None else given
    run = config.parse({"structure": "ethanol", "prior": {} if given is None else {"scale": given}})
    fit = finetune_config.parse({"data": {"train": "a.npz"}, "prior": {} if given is None else {"scale": given}})
    assert problem.stated(run, made).prior.scale == wanted == identity.stated(fit, made).prior.scale


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        (PriorSettings, "scale", "prior_scale"),
        (ParallelChains, "step_size", "step_size"),
    ],
)
def test_keys_are_described_with_the_values_of_the_table(section, key, value):
    for row in ARCHITECTURES.values():
        if row is not ROW:
            assert f"{getattr(row.preset, value):g} for {row.name}" in section.model_fields[key].description


@pytest.mark.parametrize("name", ["nequip", "pair"])
def test_weights_that_no_other_program_reads_are_not_exported_to_it(name, tmp_path):
    made = registry.initialize(SMALLEST[name], 0)
    with pytest.raises(
        ConfigError, match=f"--what: got 'model'; allowed: ensemble or chains with {name}: .* of mace alone"
    ):
        export(of_run(tmp_path / "run", made), tmp_path / "out", template=tmp_path / "a.model", trust=True)
    assert not (tmp_path / "out").exists()


def test_trust_without_a_template_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--trust: got True; allowed: this option with --template"):
        export(of_run(tmp_path / "run", registry.initialize(PAIR, 0)), tmp_path / "out", trust=True)


def test_configurations_are_values():
    assert hash(PAIR) == hash(PairConfig.model_validate(PAIR.model_dump()))
    with pytest.raises(ValueError, match="frozen"):
        PAIR.width = 5
    for change, said in (({"elements": (8, 1, 6)}, "ascending"), ({"extra": 1}, "Extra inputs"), ({"r_max": -1}, "0")):
        with pytest.raises(ValueError, match=said):
            PairConfig.model_validate(PAIR.model_dump() | change)
    with pytest.raises(ValueError, match="nequip"):
        NequIPConfig.model_validate(PAIR.model_dump())
