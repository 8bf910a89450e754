"""Parts of a fine-tuning run: what makes it the same one, its stretches and its output directory."""

import numpy as np

from bayes_mlff.finetune import run
from bayes_mlff.finetune.frames import DataSets, Frames
from bayes_mlff.models import registry
from bayes_mlff.testing.tiny import tiny_nequip

TINY = tiny_nequip((1, 8))


def water(count, seed=0):
    """Periodic frames of one molecule with random labels."""
    random = np.random.default_rng(seed)
    return Frames(
        np.array([8, 1, 1]), np.ones(3, bool), random.normal(size=(count, 3, 3)), np.ones((count, 3, 3)),
        random.normal(size=count), random.normal(size=(count, 3, 3)), random.normal(size=(count, 3, 3)),
    )  # fmt: skip


def test_the_digest_covers_all_labels_atoms_and_the_model():
    frames = water(4)
    potential = registry.initialize(TINY, 0)
    sets = DataSets(frames, water(2, 1), water(2, 2))
    before = run._digest(sets, potential)
    assert before == run._digest(sets._replace(test=None), potential), "frames that are only predicted decide"
    for field, value in frames._asdict().items():
        changed = ~value if field == "pbc" else value + 1
        assert run._digest(sets._replace(train=frames._replace(**{field: changed})), potential) != before, field
    for other in (frames._replace(stress=None), frames.take(np.arange(3))):
        assert run._digest(sets._replace(train=other), potential) != before
    assert run._digest(sets._replace(validation=None), potential) != before
    assert run._digest(sets, registry.initialize(TINY, 1)) != before
    longer = registry.Potential(TINY.model_copy(update={"r_max": 1.5 * TINY.r_max}), potential.params)
    assert run._digest(sets, longer) != before
