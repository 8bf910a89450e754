"""Parts of a fine-tuning run: what makes it the same one, its stretches and its output directory."""

import io

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from rich.console import Console

from bayes_mlff.api.finetune_console import table
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.finetune import config, identity, plan
from bayes_mlff.finetune.frames import DataSets, Frames
from bayes_mlff.models import registry
from bayes_mlff.models.config import MACEConfig
from bayes_mlff.posterior.transfer import prior_mean
from bayes_mlff.testing.tiny import tiny_nequip

TINY = tiny_nequip((1, 8))
LONG = {"kind": "long", "samples": 2}


def water(count, seed=0):
    """Periodic frames of one molecule with random labels."""
    random = np.random.default_rng(seed)
    return Frames(
        np.tile([8, 1, 1], (count, 1)), np.ones((count, 3), bool), random.normal(size=(count, 3, 3)),
        np.ones((count, 3, 3)),
        random.normal(size=count), random.normal(size=(count, 3, 3)), random.normal(size=(count, 3, 3)),
    )  # fmt: skip


def stretches(change):
    """Plan of a configuration, and the step counts of its checkpoints."""
    made = plan.make_plan(config.parse({"data": {"train": "a.npz"}} | change), registry.initialize(TINY, 0))
    ends = [0]
    while ends[-1] < made.sample_steps[-1]:
        ends.append(made.stretch_end(ends[-1]))
        assert (ends[-1] - ends[-2]) % made.thin == 0
    assert set(made.sample_steps) <= set(ends) and made.chunk % made.thin == 0
    return made, ends[1:]


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        ({"checkpoint_steps": 500}, [500, 1000, 1500, 2000]),
        ({"method": "adam", "optimizer": {"steps": 100}}, [100]),
        ({"method": "adam", "optimizer": {"steps": 1200}}, [400, 800, 1200]),
        ({"method": "adam", "optimizer": {"steps": 101}, "checkpoint_steps": 50}, [50, 100, 101]),
        ({"sampler": {"steps": 1010}}, [500, 1000, 1010]),
        ({"sampler": LONG | {"decay_steps": 400, "cycle_steps": 100}}, [100, 200, 300, 400, 500]),
        ({"sampler": LONG | {"decay_steps": 600, "cycle_steps": 503}}, [500, 600, 1100, 1103]),
    ],
)  # fmt: skip
def test_stretches_are_even_if_they_can_be_and_else_few(change, ends):
    assert stretches(change)[1] == ends


def test_windows_of_the_noise_levels_do_not_depend_on_checkpoints():
    for steps in (600, 1010, 2000):
        thin = {
            stretches({"sampler": {"steps": steps}, "checkpoint_steps": every})[0].thin
            for every in (1, 30, 100, 130, 9999)
        }
        assert len(thin) == 1, steps


def test_scale_of_the_prior_is_that_of_the_architecture_unless_said():
    mace = MACEConfig(
        elements=(1, 8), r_max=3.0, hidden_irreps="2x0e+2x1o", num_interactions=2, max_ell=1, correlation=1,
        radial_widths=(4,), sigma_widths=(4,), average_neighbors=2.0, energy_scale=1.0, energy_shifts=(0.0, 0.0),
    )  # fmt: skip
    for architecture, wanted in ((TINY, 0.2), (mace, 0.5)):
        potential = registry.initialize(architecture, 0)
        for prior, scale in (({}, wanted), ({"scale": 0.3}, 0.3)):
            parsed = config.parse({"data": {"train": "a.npz"}, "prior": prior})
            assert plan.make_plan(parsed, potential).prior.scale == scale
            start = plan.first_parameters(parsed, potential, 400, jax.random.key(0), force_sigma_ev_a=1.0)
            assert np.std(start - prior_mean(potential)[None]) == pytest.approx(spread(potential, scale), rel=0.02)


@pytest.mark.parametrize(
    ("change", "zero"),
    [
        ({}, "fitted"),
        ({"likelihood": {"energy_zero": "learnt"}}, "learnt"),
        ({"targets": "forces"}, None),
        ({"method": "adam"}, "fitted"),
        ({"method": "laplace"}, "learnt"),
        ({"sampler": {"batch_size": 1}}, "learnt"),
    ],
)
def test_the_energy_zero_is_fitted_where_it_can_be(change, zero):
    potential, parsed = registry.initialize(TINY, 0), config.parse({"data": {"train": "a.npz"}} | change)
    one = identity.stated(parsed, potential, water(2))
    assert one.likelihood.energy_zero == zero and one.fits_energy_zero == (zero == "fitted")
    two = water(2)
    two.numbers[1] = [8, 1, 0]
    assert not identity.stated(parsed, potential, two).fits_energy_zero
    if change.get("method") == "laplace" or "sampler" in change:
        asked = config.parse({"data": {"train": "a.npz"}} | change | {"likelihood": {"energy_zero": "fitted"}})
        with pytest.raises(ConfigError, match=r"likelihood\.energy_zero.*'fitted'; allowed: learnt, since"):
            identity.stated(asked, potential, water(2))


def spread(potential, scale):
    """Standard deviation over all weights of starting points, a quarter of the prior's but in the σ head."""
    head = np.concatenate([np.full(v.size, k[0] == "sigma") for k, v in sorted(flatten_dict(potential.params).items())])
    return scale * np.sqrt(np.mean(np.where(head, 1.0, 0.25**2)))


def test_the_digest_covers_all_labels_atoms_and_the_model():
    frames = water(4)
    potential = registry.initialize(TINY, 0)
    sets = DataSets(frames, water(2, 1), water(2, 2))

    def digest(sets=sets, potential=potential, with_weights=True):
        return identity.digest(sets, potential, with_weights=with_weights)

    before = digest()
    assert before == digest(sets._replace(test=None)), "frames that are only predicted decide"
    for field, value in frames._asdict().items():
        changed = ~value if field == "pbc" else np.ones((4, 3, 3), bool) if value is None else value + 1
        assert digest(sets._replace(train=frames._replace(**{field: changed}))) != before, field
    for other in (frames._replace(stress=None), frames.take(np.arange(3))):
        assert digest(sets._replace(train=other)) != before
    assert digest(sets._replace(validation=None)) != before
    assert digest(potential=registry.initialize(TINY, 1)) != before
    longer = registry.Potential(TINY.model_copy(update={"r_max": 1.5 * TINY.r_max}), potential.params)
    assert digest(potential=longer) != before
    random = [digest(potential=registry.initialize(TINY, seed), with_weights=False) for seed in (0, 1)]
    assert random[0] == random[1] != before, "weights that are not used decide"


def test_the_table_fits_a_narrow_terminal():
    numbers = {"rmse": 12.3456, "mae": 0.0123456, "mll": -1.23456, "coverage": {"0.95": 0.95123}}
    tuned = {"energy_kcal_mol": numbers, "forces_kcal_mol_a": numbers | {"auc_roc": 0.87654}, "stress_gpa": numbers}
    before = {name: {"rmse": 1234.5, "mae": 0.1} for name in tuned}
    output = Console(width=80, record=True, file=io.StringIO())
    output.print(table({name: {"zero_shot": before, "fine_tuned": tuned} for name in ("validation", "test")}))
    lines = output.export_text().splitlines()
    row = ["validation", "forces", "kcal/mol/Å", "1234", "12.3", "0.1", "0.0123", "-1.23", "0.877", "95.1%"]
    assert row in [line.split() for line in lines] and max(map(len, lines)) <= 80
    assert sum("GPa" in line for line in lines) == 2 and "MLL" in "".join(lines) and "…" not in "".join(lines)
