"""What may change between start and resume of a run."""

import pytest

from bayes_mlff.core.changes import Change, changes
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.otf import config
from bayes_mlff.otf.changes import FREE, check_changes


def settings(**top):
    return config.parse({"structure": "ethanol", **top})


def test_the_same_configuration_has_no_changes():
    assert check_changes(settings(), settings()) == ()


def test_allowed_changes_are_listed_with_both_values():
    after = settings(threshold="1 kcal/mol", dynamics={"duration_ps": 20.0, "temperature_k": 350.0})
    assert check_changes(settings(), after) == (
        Change("threshold", "0.5 kcal/mol", "1 kcal/mol"),
        Change("dynamics.duration_ps", 10.0, 20.0),
        Change("dynamics.temperature_k", 300.0, 350.0),
    )


FORCE = {"kind": "force", "threshold": "3 kcal/mol/Å", "elements": ["H"]}


def test_limits_of_triggers_may_change_and_what_they_watch_may_not():
    before = settings(triggers=[FORCE])
    other = {"threshold": "0.1 eV/Å", "confidence": 0.9, "threshold_temperature_k": 300}
    (change,) = check_changes(before, settings(triggers=[FORCE | other]))
    assert change.key == "triggers"
    for others in ([], [FORCE, FORCE | {"name": "b"}], [FORCE | {"elements": ["O"]}], [FORCE | {"name": "b"}]):
        with pytest.raises(ConfigError, match=r"triggers: got .*of triggers threshold, confidence, threshold_temp"):
            check_changes(before, settings(triggers=others))


@pytest.mark.parametrize(
    "top",
    [
        {"structure": "other.xyz"},
        {"model": "other.safetensors"},
        {"seed": 1},
        {"sampler": {"chains": 4}},
        {"prior": {"scale": 0.3}},
        {"sampler": {"eps": 1e-3}},
        {"calibration": {"a": 1.5}},
        {"dynamics": {"timestep_fs": 1.0}},
        {"dynamics": {"ensemble": "nve"}},
        {"dynamics": {"barostat": {"free": ["a", "b"]}}},
    ],
)
def test_what_makes_another_run_is_refused_by_name(top):
    with pytest.raises(ConfigError) as caught:
        check_changes(settings(), settings(**({"structure": "ethanol"} | top)))
    (change,) = changes(settings(), settings(**({"structure": "ethanol"} | top)))
    assert caught.value.key == change.key
    assert repr(change.before) in str(caught.value)


def test_every_free_key_exists():
    dumped = settings().model_dump()
    for key in FREE:
        value = dumped
        for part in key.split("."):
            value = value[part]


def test_engine_details_are_left_to_the_settings_hash():
    (change,) = check_changes(settings(), settings(engine={"name": "pyscf", "max_cycle": 200}))
    assert change.key == "engine.max_cycle"
