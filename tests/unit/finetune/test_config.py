"""Fine-tuning configuration and data: defaults, refusals that name key or frame, before anything is computed."""

import ase
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.flatten_util import ravel_pytree

from bayes_mlff.core import settings
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.core.units import BOHR, GPA, HARTREE, KCAL_MOL
from bayes_mlff.data import label_units
from bayes_mlff.finetune import config, doubts, frames, plan
from bayes_mlff.finetune.config import ParallelSampler
from bayes_mlff.finetune.frames import Frames
from bayes_mlff.models import registry
from bayes_mlff.models.energetics import Prediction
from bayes_mlff.models.force_sigma import SIGMA_UNIT
from bayes_mlff.models.layers import last_sigma_bias
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.minibatch import draw
from bayes_mlff.posterior.potential import Observations
from bayes_mlff.posterior.settings import LongChain
from bayes_mlff.posterior.transfer import prior_mean
from bayes_mlff.testing.tiny import tiny_nequip

MINIMAL = {"data": {"train": "a.npz"}}
WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
TINY = tiny_nequip((1, 8), average_neighbors=2.0, energy_shifts=(-1.0, -3.0))


def water(count, seed=0):
    random = np.random.default_rng(seed)
    return {
        "z": np.array([8, 1, 1]),
        "R": WATER + 0.05 * random.normal(size=(count, 3, 3)),
        "E": random.normal(size=count),
        "F": random.normal(size=(count, 3, 3)),
    }


def write(path, arrays):
    np.savez(path, **arrays)
    return str(path)


def test_both_dumps_read_back_as_the_same():
    for raw in (MINIMAL, MINIMAL | {"sampler": {"kind": "long", "samples": 3}, "method": "adam"}):
        parsed = config.parse(raw)
        for text in (settings.dump(parsed), config.template(parsed)):
            assert config.parse(yaml.safe_load(text)) == parsed
    assert isinstance(config.parse(MINIMAL | {"sampler": {"steps": 900}}).sampler, ParallelSampler)


@pytest.mark.parametrize(
    ("change", "key", "phrase"),
    [
        ({"modell": "x"}, "modell", "did you mean 'model'"),
        ({"data": {}}, "data.train", "required"),
        ({"data": {"train": "a.npz", "frame": 3}}, "data.frame", "did you mean 'frames'"),
        ({"data": {"train": "a.npz", "frames": 0}}, "data.frames", "greater than"),
        ({"data": {"train": "a.npz", "forces_unit": "Ry/furlong"}}, "data.forces_unit", "hartree/bohr"),
        ({"targets": "stress"}, "targets", "energy+forces"),
        ({"method": "adamw"}, "method", "deep-ensemble"),
        ({"likelihood": {"energy_sigma": "0.05"}}, "likelihood.energy_sigma", "kcal/mol"),
        ({"schedule": {"steps": 900}}, "schedule.steps", "sampler.steps, to which this key was renamed"),
        ({"schedule": {"kind": "long"}}, "schedule.kind", "sampler.kind, to which this key was renamed"),
        ({"batch_size": 9}, "batch_size", "sampler.batch_size, to which this key was renamed"),
        ({"sampler": {"stpes": 900}}, "sampler.stpes", "did you mean 'steps'"),
        ({"sampler": {"steps": 500}}, "sampler", "cold_steps + ramp_steps"),
        ({"sampler": {"kind": "long", "steps": 900}}, "sampler.steps", "decay_steps"),
        ({"sampler": {"kind": "short"}}, "sampler.kind", "got 'short'; allowed: one of parallel, long"),
        ({"prior": {"scal": 1}}, "prior.scal", "did you mean 'scale'"),
        ({"optimizer": {"members": 0}}, "optimizer.members", "greater than"),
        (
            {"data": {"train": "a.npz", "test": "b.npz", "test_frames": 3}},
            "data",
            "test and test_frames are both given",
        ),
    ],
)
def test_mistakes_are_named(change, key, phrase):
    with pytest.raises(ConfigError) as caught:
        config.parse(MINIMAL | change)
    assert caught.value.key == key
    assert phrase in str(caught.value)


def read(tmp_path, *, train=None, validation=None, **settings):
    data = {"train": write(tmp_path / "train.npz", train or water(6))}
    if validation is not None:
        data["validation"] = write(tmp_path / "validation.npz", validation)
    top = {key: settings.pop(key) for key in ("targets",) if key in settings}
    return frames.read(config.parse({"data": data | settings} | top))


def test_frames_come_from_the_front_or_by_seed(tmp_path):
    arrays = water(6)
    np.testing.assert_array_equal(read(tmp_path, frames=2).train.energy, arrays["E"][:2])
    drawn = read(tmp_path, frames=3, draw_seed=1).train.energy
    assert set(drawn) < set(arrays["E"]) and list(drawn) != list(arrays["E"][:3])
    np.testing.assert_array_equal(drawn, read(tmp_path, frames=3, draw_seed=1).train.energy)


def test_a_seed_of_the_training_frames_leaves_what_is_set_aside(tmp_path):
    whole = water(20)

    def drawn(count, seed):
        aside = {"validation_frames": 5, "test_frames": 3, "draw_seed": 2}
        found = read(tmp_path, train=whole, frames=count, frames_seed=seed, **aside)
        return [set(part.energy) for part in found.named().values()]

    few, more, other = drawn(4, 0), drawn(7, 0), drawn(4, 1)
    assert few[1:] == more[1:] == other[1:] and few[0] < more[0] and other[0] != few[0]
    assert not more[0] & (more[1] | more[2]) and [len(part) for part in more] == [7, 5, 3]


def test_units_are_converted(tmp_path):
    sets = read(
        tmp_path, energy_unit="kcal/mol", forces_unit="hartree/bohr", train=water(6) | {"F": 0.01 * water(6)["F"]}
    )
    np.testing.assert_allclose(sets.train.energy, water(6)["E"] * KCAL_MOL)
    np.testing.assert_allclose(sets.train.forces, 0.01 * water(6)["F"] * HARTREE / BOHR)


@pytest.mark.parametrize(
    ("change", "error", "phrase"),
    [
        ({"train": water(6) | {"F": 30 * water(6)["F"]}}, DataError, "data.forces_unit"),
        (
            {"train": water(6) | {"R": water(6)["R"] * 0.1}},
            DataError,
            r"data.train: nearest neighbours .* in nm they would be .*positions_unit: got A",
        ),
        ({"train": {k: v for k, v in water(6).items() if k != "F"}}, DataError, "no array F; present: E, R, z"),
        ({"train": water(6) | {"E": np.full(6, np.nan)}}, DataError, "E is not finite"),
        (
            {"validation": water(2)},
            DataError,
            r"2 pairs of geometries are the same .*\(validation 0 = train 0, val",
        ),
        ({"frames": 7}, ConfigError, "at most the 6 frames"),
        ({"targets": "energy+forces+stress"}, DataError, "holds no crystals; allowed: targets without stress"),
        ({"validation_frames": 4, "test_frames": 2}, ConfigError, "less than the 6 frames"),
        ({"validation_frames": 2, "frames": 5}, ConfigError, "at most the 4 frames"),
        ({"energies_key": "energy"}, DataError, "no array energy"),
    ],
)
def test_unusable_data_are_refused(tmp_path, change, error, phrase):
    with pytest.raises(error, match=phrase):
        read(tmp_path, **change)


def test_duplicates_may_be_allowed_and_are_found_within_a_set(tmp_path):
    twice = {key: value if key == "z" else value[[0, 1, 0]] for key, value in water(2).items()}
    with pytest.raises(DataError, match=r"1 pairs of geometries are the same .*\(train 2 = train 0"):
        read(tmp_path, train=twice)
    assert len(read(tmp_path, train=twice, duplicates="allow").train.energy) == 3


def test_rounded_copies_are_duplicates_and_neighbouring_frames_are_not(tmp_path):
    """A file with eight decimals against one with all; 0.01 Å is a femtosecond of a slow atom."""
    copy, moved = water(2), water(2)
    copy["R"] = copy["R"].round(4)
    with pytest.raises(DataError, match="2 pairs"):
        read(tmp_path, train=water(2), validation=copy)
    moved["R"][:, 0, 0] += 0.01
    assert read(tmp_path, train=water(2), validation=moved).validation is not None


def test_sets_drawn_from_one_file_are_disjoint_and_depend_on_the_seed_alone(tmp_path):
    whole = water(20)
    sets = read(tmp_path, train=whole, validation_frames=5, test_frames=3, frames=6)
    parts = [set(part.energy) for part in sets.named().values()]
    assert [len(part) for part in parts] == [6, 5, 3] and len(set.union(*parts)) == 14
    assert set.union(*parts) < set(whole["E"])
    more = read(tmp_path, train=whole, validation_frames=5, test_frames=3, frames=9)
    assert parts[0] < set(more.train.energy) and parts[1:] == [
        set(part.energy) for part in [*more.named().values()][1:]
    ]
    other = read(tmp_path, train=whole, validation_frames=5, test_frames=3, frames=6, draw_seed=1)
    assert set(other.test.energy) != parts[2]


def crystals(tmp_path, name, stresses):
    """Frames of two atoms; None leaves the stress out."""
    made = []
    for index, stress in enumerate(stresses):
        atoms = ase.Atoms("Al2", [[0, 0, 0], [2.5, 0.1 * index, 0]], cell=[5, 5, 5], pbc=True)
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = 1.0, np.zeros((2, 3))
        if stress is not None:
            atoms.info["REF_stress"] = stress * np.eye(3)
        made.append(atoms)
    path = tmp_path / f"{name}.xyz"
    ase.io.write(path, made, format="extxyz")
    return str(path)


def test_stress_is_converted_and_wanted_of_every_frame_of_every_set(tmp_path):
    whole, lacking = crystals(tmp_path, "whole", [1.0, 2.0]), crystals(tmp_path, "lacking", [1.0, None])
    data = {"train": whole, "stress_unit": "kbar", "stress_sign": "compression", "duplicates": "allow"}
    read_stress = frames.read(config.parse({"data": data, "targets": "energy+forces+stress"})).train.stress
    np.testing.assert_allclose(read_stress, [-0.1 * GPA * np.eye(3), -0.2 * GPA * np.eye(3)])
    for key in ("validation", "test"):
        wanted = {"data": data | {key: lacking}, "targets": "energy+forces+stress"}
        with pytest.raises(DataError, match=rf"data.{key}: frame 1 lacks REF_stress"):
            frames.read(config.parse(wanted))
        assert frames.read(config.parse(wanted | {"targets": "forces"})).train.size == 2


def labels_like(predicted, correlation, seed=3):
    random = np.random.default_rng(seed)
    return correlation * predicted + np.sqrt(1 - correlation**2) * predicted.std() * random.normal(size=predicted.shape)


def test_units_that_the_pretrained_model_contradicts_are_named():
    random = np.random.default_rng(0)
    predicted = Prediction(
        energy=random.normal(size=(1, 10)),
        forces=random.normal(size=(1, 10, 4, 3)),
        force_sigma=np.ones((1, 10, 4)),
        stress=0.01 * random.normal(size=(1, 10, 3, 3)),
    )
    energy, forces, stress = (labels_like(x[0], 0.95) for x in (predicted.energy, predicted.forces, predicted.stress))
    stated = config.parse({"data": {"train": "a.npz"}}).data

    def check(energy=energy, forces=forces, stress=stress, count=10, **change):
        parts = (np.zeros((10, 4, 3)), np.zeros((10, 3, 3)), energy + 500.0, forces, stress)
        used = Frames(np.tile([8, 1, 1, 1], (10, 1)), np.ones((10, 3), bool), *parts).take(np.arange(count))
        seen = jax.tree.map(lambda x: x[:, :count], predicted)
        units = label_units.settle(stated.model_copy(update=change), {}, "a.npz", "data.train")
        doubts.check_units(seen, used, units, "train")

    check()
    check(forces=labels_like(predicted.forces[0], 0.1))  # a poor model raises no doubt
    check(forces=3.0 * forces, energy=0.3 * energy)
    wild = forces.copy()
    wild[0] *= 100.0
    check(forces=wild, energy=energy + np.array([60.0] + [0.0] * 9))
    check(forces=-forces, energy=energy / KCAL_MOL, stress=-stress, count=7)  # chance does that with so few numbers
    for unit, factor in (("kcal/mol/A", KCAL_MOL), ("hartree/bohr", HARTREE / BOHR), ("-eV/A", -1.0)):
        with pytest.raises(DataError, match=rf"data.forces_unit: got eV/A, .* data.train look like {unit} "):
            check(forces=forces / factor)
    with pytest.raises(DataError, match=r"data.forces_unit: got kcal/mol/A, .* look like eV/A "):
        check(forces=forces * KCAL_MOL, forces_unit="kcal/mol/A")
    with pytest.raises(DataError, match=r"data.energy_unit: got eV, .* look like kcal/mol "):
        check(energy=energy / KCAL_MOL)
    with pytest.raises(DataError, match=r"stress_sign: got eV/A\^3, tension, .* look like kbar, compression"):
        check(stress=-stress / (0.1 * GPA))


def test_extxyz_names_the_frame_without_a_label(tmp_path):
    path = tmp_path / "train.xyz"
    line = '3\nProperties=species:S:1:pos:R:3:REF_forces:R:3 {} pbc="F F F"\n'
    body = "O 0 0 0 0 0 0\nH 0.96 0 0 0 0 0\nH -0.24 0.93 0 0 0 0\n"
    path.write_text(line.format("REF_energy=1.0") + body + line.format("") + body)
    with pytest.raises(DataError, match="frame 1 lacks REF_energy"):
        frames.read(config.parse({"data": {"train": str(path)}}))
    path.write_text(line.format("REF_energy=1.0") + body)
    assert frames.read(config.parse({"data": {"train": str(path)}})).train.energy == pytest.approx([1.0])


def test_graphs_share_their_shapes_and_unknown_elements_are_named(tmp_path):
    sets = read(tmp_path, validation=water(2, 1))
    made = frames.graphs(sets.named(), (1, 8), 1.2)
    assert made["train"].neighbors.shape[1:] == made["validation"].neighbors.shape[1:]
    assert made["train"].positions.shape == (6, 3, 3)
    with pytest.raises(DataError, match=r"elements \['O'\]"):
        frames.graphs(sets.named(), (1, 6), 1.2)


def test_plans_sample_where_the_schedules_say():
    potential = registry.initialize(TINY, 0)
    parsed = config.parse(MINIMAL | {"sampler": {"kind": "long", "samples": 3, "decay_steps": 600, "cycle_steps": 150}})
    made = plan.make_plan(parsed, potential)
    assert made.sample_steps == (600, 750, 900) and made.chains == 1
    assert all(step % made.chunk == 0 for step in made.sample_steps) and made.chunk % made.thin == 0
    parallel = plan.make_plan(config.parse(MINIMAL), potential)
    assert parallel.sample_steps == (2000,) and parallel.chains == 8
    assert float(parallel.prior.scale) == 0.2
    assert LongChain().start == 3e-3


def test_only_parallel_chains_level(monkeypatch):
    """A level that adds one, in place of the true one, is taken by cold parallel chains and by nothing else."""
    monkeypatch.setattr(plan, "noise_levels", lambda *_, **__: lambda params, data: (params + 1.0, data.likelihood))
    potential = registry.initialize(TINY, 0)

    def adjust(change):
        parsed = config.parse(MINIMAL | change)
        return plan.adjustment(parsed, potential, lambda params, graphs: None, plan.make_plan(parsed, potential).thin)

    assert adjust({"method": "adam"}) is None and adjust({"sampler": {"kind": "long"}}) is None
    observations = Observations(None, Likelihood(1.0))
    for step, moved in ((0, 1.0), (350, 1.0), (351, 0.0)):
        params, _ = adjust({})(jnp.zeros(2), jnp.int32(step), observations)
        np.testing.assert_array_equal(np.asarray(params), moved)


def test_starting_points_and_priors_of_the_methods():
    potential = registry.initialize(TINY, 0)
    flat, key = np.asarray(potential.flat()[0]), jax.random.key(0)
    mean = np.asarray(prior_mean(potential))

    def first_parameters(parsed, chains):
        return plan.first_parameters(parsed, potential, chains, key, force_sigma_ev_a=2.0)

    head = {k: np.full(v.shape, k[0] == "sigma") for k, v in flatten_dict(potential.params).items()}
    body = ~np.asarray(ravel_pytree(unflatten_dict(head))[0])
    assert (mean[body] == flat[body]).all() and not mean[~body].any()
    long = config.parse(MINIMAL | {"sampler": {"kind": "long"}})
    for parsed in (long, config.parse(MINIMAL | {"method": "adam"})):
        start = np.asarray(first_parameters(parsed, 2))
        np.testing.assert_array_equal(start[:, body], np.stack([flat[body]] * 2))
        assert (start[0, ~body] != start[1, ~body]).any()
        np.testing.assert_allclose(SIGMA_UNIT * np.exp(start[:, last_sigma_bias(potential)]), 2.0, rtol=1e-6)
    spread = np.asarray(first_parameters(config.parse(MINIMAL), 400))
    assert np.std(spread[:, body] - flat[body]) == pytest.approx(0.25 * 0.2, rel=0.02)
    assert np.std(spread[:, ~body]) == pytest.approx(0.2, rel=0.02)
    scratch = config.parse(MINIMAL | {"method": "scratch"})
    start = np.asarray(first_parameters(scratch, 2))
    assert start.shape == (2, flat.size) and not np.isclose(start[0], start[1]).all()
    assert not np.isclose(start[0], flat).all()
    np.testing.assert_allclose(SIGMA_UNIT * np.exp(start[:, last_sigma_bias(potential)]), 2.0, rtol=1e-6)
    drawn = flatten_dict(potential.flat()[1](jnp.asarray(start[0])))
    radial = [np.std(v) for k, v in drawn.items() if k[-3:] == ("radial", "dense_0", "weight")]
    assert radial and 2.5 < np.mean(radial) < 5.5, "random radial weights are not widened"
    prior = plan.make_plan(scratch, potential).prior
    assert prior.scale == 1.0 and not np.asarray(prior.mean).any()
    free = plan.make_plan(config.parse(MINIMAL | {"method": "adam"}), potential)
    assert free.prior.scale == float("inf") and free.chains == 1


@pytest.mark.parametrize("count", [3, 7])
def test_draws_without_a_newest_label_are_unbiased_and_even(count):
    keys = jax.random.split(jax.random.key(0), 4000)
    batch = jax.vmap(lambda key: draw(key, jnp.int32(count), None, 4))(keys)
    share = np.zeros(count)
    np.add.at(share, np.asarray(batch.indices), np.asarray(batch.weights))
    np.testing.assert_allclose(share / 4000, 1 / count, atol=4 * np.sqrt(1 / count / 16000))


def test_former_keys_of_a_file_are_refused_with_the_file(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("data: {train: a.npz}\nschedule: {steps: 900}\n")
    with pytest.raises(ConfigError, match=rf"^schedule\.steps: got 900; allowed: sampler\.steps, .*{path}"):
        config.load(path)
