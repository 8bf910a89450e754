"""Keys that a method does not use: they are said, and do not make another fine-tuning."""

import contextlib

import pytest

from bayes_mlff.core import settings
from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.finetune import config, identity

MINIMAL = {"data": {"train": "a.npz"}}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"sampler": {"batch_size": 5, "steps": 900}}, True),
        ({"sampler": {"batch_size": 9}}, False),
        ({"sampler": {"batch_size": 5, "friction": 0.2}}, False),
    ],
)
def test_an_optimisation_depends_on_what_optimisers_take_of_the_sampler(tmp_path, change, same):
    adam = {"method": "adam", "output": str(tmp_path)}
    stored = config.parse(MINIMAL | adam | {"sampler": {"batch_size": 5}})
    (tmp_path / "config.yaml").write_text(settings.dump(stored))
    asked = config.parse(MINIMAL | adam | change)
    if same:
        identity.check_output(asked, tmp_path)
    else:
        with pytest.raises(RunDirectoryError, match=r"sampler\.(batch_size 5, got 9|friction 0\.1, got 0\.2)"):
            identity.check_output(asked, tmp_path)


@pytest.mark.parametrize(
    ("change", "unused"),
    [
        ({}, ()),
        (
            {"prior": {"scale": 0.3, "kind": "normal"}, "sampler": {"steps": 900, "eps": 1e-3, "initial_spread": 0.1}},
            (),
        ),
        ({"sampler": {"kind": "long", "peak": 1e-4, "eps": 1e-3}}, ()),
        ({"optimizer": {"steps": 9}, "laplace": {"samples": 9}}, ("optimizer.steps", "laplace.samples")),
        (
            {"method": "scratch", "prior": {"scale": 0.3}, "sampler": {"initial_spread": 0.1, "eps": 1e-3}},
            ("prior.scale", "sampler.initial_spread"),
        ),
        (
            {"method": "adam", "prior": {"kind": "normal"}, "sampler": {"batch_size": 9, "friction": 0.2, "eps": 1e-3}},
            ("prior.kind", "sampler.eps"),
        ),
        ({"method": "adam", "sampler": {"kind": "long", "peak": 1e-4, "batch_size": 9}}, ("sampler.peak",)),
        ({"method": "laplace", "optimizer": {"members": 3}, "laplace": {"samples": 9}}, ("optimizer.members",)),
        ({"method": "deep-ensemble", "optimizer": {"members": 3}, "prior": {"scale": 0.3}}, ("prior.scale",)),
    ],
)
def test_keys_that_a_method_does_not_use_are_known(change, unused):
    assert identity.without_effect(config.parse(MINIMAL | change)) == unused


@pytest.mark.parametrize(("prior", "same"), [({"kind": "normal"}, True), ({"scale": 0.3}, False)])
def test_an_optimisation_starts_from_a_sigma_head_as_wide_as_the_prior(tmp_path, prior, same):
    adam = {"method": "adam", "output": str(tmp_path)}
    (tmp_path / "config.yaml").write_text(settings.dump(config.parse(MINIMAL | adam)))
    refused = contextlib.nullcontext() if same else pytest.raises(RunDirectoryError, match=r"prior\.scale")
    with refused:
        identity.check_output(config.parse(MINIMAL | adam | {"prior": prior}), tmp_path)
