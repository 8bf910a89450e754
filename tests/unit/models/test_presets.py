"""Presets reach the chains on the fly and in fine-tuning, however the model is named; what the user sets wins."""

import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.level import Level
from bayes_mlff.finetune import config as finetune_config
from bayes_mlff.finetune import identity, plan
from bayes_mlff.models import architectures, catalogue, presets, registry
from bayes_mlff.models.catalogue import ENTRIES
from bayes_mlff.models.config import NequIPConfig
from bayes_mlff.models.importers.nequix_files import read_model
from bayes_mlff.models.known.entry import Preset
from bayes_mlff.models.known.presets import whose
from bayes_mlff.models.origin import Origin
from bayes_mlff.models.registry import Potential
from bayes_mlff.otf import config, problem, systems
from bayes_mlff.posterior.transfer import stated_sampler
from tests.support import nequix_file

NAME = "nequip-md17-small"
OWN = Preset(0.07, 7e-4, 700, 7, "by a test")
NEQUIX = architectures.ARCHITECTURES["nequip"].families[0].preset


@pytest.fixture
def with_preset(monkeypatch):
    """A shipped model with a preset of its own."""
    monkeypatch.setitem(ENTRIES, NAME, ENTRIES[NAME]._replace(preset=OWN))
    return registry.load(NAME)


@pytest.fixture
def nqx(tmp_path):
    path = tmp_path / "of my own.nqx"
    path.write_bytes(nequix_file.content(nequix_file.HEADER, nequix_file.random_leaves(nequix_file.HEADER)))
    return path


def prepared(potential, monkeypatch, **settings):
    """Configuration, prior and the arguments of the chains of a run of ethanol."""
    given = []
    original = problem.otf_chains

    def recorded(*args, **kwargs):
        given.append(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(problem, "otf_chains", recorded)
    parsed = config.parse({"structure": "ethanol", **settings})
    start = systems.initial_structure(parsed.structure, base=registry.Path()).structure
    made = problem.prepare(parsed, start, registry.for_atoms(potential, start.numbers))
    return made, given[0]


def values(preset):
    return preset.prior_scale, preset.step_size, preset.cold_steps, preset.batch_size


def test_the_preset_of_a_model_reaches_the_chains_of_a_run(with_preset, monkeypatch):
    made, chains = prepared(with_preset, monkeypatch)
    assert made.prior.scale == 0.07 and chains["step_size"] == 7e-4
    assert (chains["cold_steps"], chains["batch_size"]) == (700, 7)
    stored = made.config
    assert (stored.prior.scale, *(getattr(stored.sampler, k) for k in ("step_size", "cold_steps", "batch_size"))) == (
        values(OWN)
    )
    assert presets.of(made.potential).whose == f"the model {NAME}"


def test_what_the_user_sets_wins(with_preset, monkeypatch):
    sampler = {"step_size": 2e-3, "cold_steps": 100, "batch_size": 3}
    made, chains = prepared(with_preset, monkeypatch, prior={"scale": 0.4}, sampler=sampler)
    assert made.prior.scale == 0.4
    assert {key: chains[key] for key in sampler} == sampler


def test_the_preset_of_a_model_reaches_a_fine_tuning(with_preset, monkeypatch):
    sizes = []
    monkeypatch.setattr(plan, "cosine_step_size", lambda first, steps: sizes.append(first) or (lambda step: first))
    parsed = finetune_config.parse({"data": {"train": "a.npz"}})
    assert plan.make_plan(parsed, with_preset).prior.scale == 0.07 and sizes == [7e-4]
    stated = identity.stated(parsed, with_preset)
    assert (stated.prior.scale, *(getattr(stated.sampler, k) for k in ("step_size", "cold_steps", "batch_size"))) == (
        values(OWN)
    )
    assert stated.sampler.batch == 7 and stated.parallel is not None and stated.parallel.cold == 700


def test_optimisers_take_the_batches_of_a_preset(with_preset):
    stated = identity.stated(finetune_config.parse({"data": {"train": "a.npz"}, "method": "adam"}), with_preset)
    assert stated.sampler.batch_size == 7 and stated.sampler.cold_steps is None


def test_random_weights_take_the_preset_of_the_architecture(with_preset):
    parsed = finetune_config.parse({"data": {"train": "a.npz"}, "method": "scratch"})
    assert identity.stated(parsed, with_preset).sampler.step_size == 1e-3


def test_long_chains_take_the_batches(with_preset):
    parsed = finetune_config.parse({"data": {"train": "a.npz"}, "sampler": {"kind": "long"}})
    assert identity.stated(parsed, with_preset).sampler.batch_size == 7


@pytest.mark.parametrize("change", ["saved", "restricted", "both", "per_element"])
def test_copies_of_a_model_keep_its_preset(with_preset, tmp_path, change):
    potential = with_preset
    if change in ("restricted", "both"):
        potential = registry.restrict(potential, (1, 6))
    if change in ("saved", "both"):
        registry.save(potential, tmp_path / "copy.safetensors", {})
        potential = registry.load(str(tmp_path / "copy.safetensors"))
    if change == "per_element":
        potential = registry.per_element(potential)
    assert values(presets.of(potential).preset) == values(OWN) and potential.origin == Origin(NAME)


def test_files_with_names_that_are_not_known_have_no_origin(with_preset, tmp_path):
    unknown = registry.replace(with_preset, origin=Origin("of another version"))
    registry.save(unknown, tmp_path / "copy.safetensors", {})
    loaded = registry.load(str(tmp_path / "copy.safetensors"))
    assert loaded.origin == Origin() and presets.of(loaded).whose == "the architecture nequip"


def test_files_of_nequix_are_recognised_by_their_configuration(nqx, tmp_path, monkeypatch):
    potential = registry.load(str(nqx))
    assert potential.origin == Origin()
    registry.save(potential, tmp_path / "copy.safetensors", {})
    for each in (potential, registry.load(str(tmp_path / "copy.safetensors")), registry.restrict(potential, (8,))):
        assert presets.of(each) == (NEQUIX, "Nequix") and NEQUIX.prior_scale < 0.2
    assert presets.of(potential, pretrained=False).whose == "the architecture nequip"


def test_published_files_are_recognised_by_their_checksum(nqx, monkeypatch):
    row = ENTRIES["nequix-mp-1"]
    digest = catalogue.hashlib.sha256(nqx.read_bytes()).hexdigest()
    monkeypatch.setitem(ENTRIES, "nequix-mp-1", row._replace(source=row.source._replace(sha256=digest), preset=OWN))
    potential = registry.load(str(nqx))
    assert potential.origin == Origin("nequix-mp-1") and potential.origin.level == row.level
    assert presets.of(potential) == (OWN, "the model nequix-mp-1")


def test_every_published_name_of_nequix_gets_the_preset(nqx):
    imported = read_model(nqx)
    for name, row in ENTRIES.items():
        if name.startswith("nequix-"):
            assert row.preset is None
            assert presets.of(Potential(*imported, Origin(name))) == whose(row) == (NEQUIX, "Nequix")


@pytest.mark.parametrize("name", ["nequip-md17-small", "mace-perovskite-small"])
def test_what_is_listed_is_what_is_used(name):
    assert presets.of(registry.load(name)) == whose(ENTRIES[name])


def test_no_other_configuration_is_taken_for_nequix():
    assert not architectures.ARCHITECTURES["nequip"].families[0].has(registry.load(NAME).config)
    assert NequIPConfig.model_fields["activation_norm"].default != "e3nn-jax"


def test_fine_tuned_weights_keep_the_preset_but_not_the_level():
    assert Origin(NAME).level == Level("PBE", dispersion="TS")
    assert Origin(NAME, tuned=True).level is None and Origin().level is None
    assert Origin("mace-mh-1", "omol").level == ENTRIES["mace-mh-1"].heads["omol"]


def test_too_few_steps_for_a_preset_are_refused(with_preset):
    sampler = config.parse({"structure": "ethanol", "sampler": {"steps": 800}}).sampler
    with pytest.raises(ConfigError, match=r"sampler\.steps: got 800; allowed: more than 800, since the preset of the"):
        stated_sampler(sampler, presets.of(with_preset))


def test_the_line_says_what_is_used_and_what_is_not():
    chosen = presets.Chosen(OWN, "the model x")
    used = {"prior.scale": 0.07, "sampler.step_size": 1e-3, "sampler.friction": 0.1}
    assert chosen.line(used) == (
        "of the model x: prior.scale 0.07; set otherwise: sampler.step_size 0.001 (there 0.0007)"
    )
    assert chosen.line({"sampler.cold_steps": 1}) == (
        "of the model x: not used; set otherwise: sampler.cold_steps 1 (there 700)"
    )


def test_every_preset_says_how_it_was_found():
    rows = architectures.ARCHITECTURES.values()
    made = [row.preset for row in rows] + [each.preset for row in rows for each in row.families]
    made += [row.preset for row in ENTRIES.values() if row.preset is not None]
    assert all(each.found for each in made) and np.all([values(each) > (0, 0, 0, 0) for each in made])
