"""Diffusion coefficients of walks with a known one, and how often the stated interval contains it.

Seeds are fixed. Coverage is held against a binomial law with 92 %, which the nominal 95 % may fall to where the
test for a random walk had to choose; false-alarm rate 1e-4 each.
"""

import numpy as np
import pytest
from scipy import stats

from bayes_mlff.analysis import diffusion

D = 0.01
"""Å²/fs; frames are 1 fs apart."""


def walk(rng, frames, atoms, noise=0.0):
    steps = np.cumsum(np.sqrt(2.0 * D) * rng.normal(size=(frames, atoms, 3)), axis=0)
    return steps + noise * rng.normal(size=steps.shape)


def persistent(rng, frames, atoms, tau=5.0):
    """Langevin dynamics of free particles, solved exactly; ballistic below `tau` (fs)."""
    kept, speed = np.exp(-1.0 / tau), D / tau
    joint = speed * np.array([[tau**2 * (2.0 / tau - 3.0 + 4.0 * kept - kept**2), tau * (1.0 - kept) ** 2],
                              [tau * (1.0 - kept) ** 2, 1.0 - kept**2]])  # fmt: skip
    root = np.linalg.cholesky(joint)
    x, v, path = np.zeros((atoms, 3)), np.sqrt(speed) * rng.normal(size=(atoms, 3)), []
    for _ in range(frames):
        one, two = rng.normal(size=(2, atoms, 3))
        x, v = x + tau * (1.0 - kept) * v + root[0, 0] * one, kept * v + root[1, 0] * one + root[1, 1] * two
        path.append(x)
    return np.array(path)


def hops(rng, frames, atoms, length=2.0):
    """Rare jumps along the axes, with vibrations."""
    jump = rng.uniform(size=(frames, atoms)) < 6.0 * D / length**2
    steps = np.zeros((frames, atoms, 3))
    np.put_along_axis(steps, rng.integers(0, 3, size=(frames, atoms, 1)), length, axis=-1)
    steps *= jump[..., None] * rng.choice([-1.0, 1.0], size=(frames, atoms, 1))
    return np.cumsum(steps, axis=0) + 0.2 * rng.normal(size=steps.shape)


CASES = {
    "walk": (lambda rng: [walk(rng, 200, 5)], 150),
    "one atom": (lambda rng: [walk(rng, 150, 1)], 150),
    "vibrating, in replicas": (lambda rng: [walk(rng, 150, 2, 0.2) for _ in range(3)], 150),
    "persistent": (lambda rng: [persistent(rng, 600, 6)], 80),
    "rare hops": (lambda rng: [hops(rng, 400, 3)], 100),
}


@pytest.mark.parametrize(("make", "number"), CASES.values(), ids=CASES)
def test_the_interval_contains_the_known_value_as_often_as_it_says(make, number):
    rng = np.random.default_rng(11)
    found = [diffusion.coefficient(make(rng), 1.0) for _ in range(number)]
    known = [each for each in found if each is not None]
    assert len(known) >= 0.9 * number
    inside = sum(each.lower <= D <= each.upper for each in known)
    assert inside >= stats.binom.ppf(1e-4, len(known), 0.92)
    values, errors = np.array([each.value for each in known]), np.array([each.error for each in known])
    assert abs(values.mean() - D) < 4.5 * values.std() / np.sqrt(len(known)) + 0.03 * D
    assert 0.75 < np.sqrt(np.mean(errors**2)) / values.std() < 1.35


def test_gaussian_errors_would_be_too_small_for_rare_hops():
    """What the cumulant is for: without it the stated error is that of as many small steps."""
    rng = np.random.default_rng(12)
    one = diffusion.fit([hops(rng, 2000, 5)], 1)
    spread = diffusion.covariance(1999, 12, step=one.slope / 3, noise=one.offset / 3) * 3 / 5
    assert one.msd_error[-1] > 2.0 * np.sqrt(spread[-1, -1])


def test_covariance_is_that_of_all_windows_enumerated():
    steps, step, noise, cumulant = 9, 0.7, 0.3, 0.9
    positions = np.tri(steps + 1, steps, -1)  # as sums of steps
    marks = np.eye(steps + 1)  # the noise of each position
    windows = [
        [(positions[i + m] - positions[i], marks[i + m] - marks[i]) for i in range(steps - m + 1)] for m in (1, 2, 3)
    ]
    wanted = np.empty((3, 3))
    for a, left in enumerate(windows):
        for b, right in enumerate(windows):
            terms = [
                2.0 * (step * u @ x + 0.5 * noise * v @ y) ** 2 + cumulant * np.sum(u**2 * x**2)
                for u, v in left
                for x, y in right
            ]
            wanted[a, b] = np.mean(terms)
    got = diffusion.covariance(steps, 3, step=step, noise=noise, cumulant=cumulant)
    assert np.allclose(got, wanted, rtol=1e-12)


def test_mean_square_displacement_is_the_mean_over_all_windows():
    rng = np.random.default_rng(0)
    parts = [np.cumsum(rng.normal(size=(12, 3, 3)), axis=0) for _ in range(2)]
    got = diffusion.mean_square_displacement(parts)
    both = np.concatenate(parts, axis=1)
    wanted = [np.mean(np.sum((both[m:] - both[: 12 - m]) ** 2, axis=-1)) for m in range(12)]
    assert np.allclose(got, wanted, rtol=0, atol=1e-10)


def test_what_only_vibrates_does_not_diffuse():
    rng = np.random.default_rng(3)
    found = diffusion.coefficient([0.3 * rng.normal(size=(400, 10, 3))], 1.0)
    assert found is not None and not found.significant
    assert found.lower == 0.0 and 0.0 < found.upper < 1e-4
    assert diffusion.coefficient([np.zeros((400, 2, 3))], 1.0) is None
    assert diffusion.coefficient([rng.normal(size=(15, 2, 3))], 1.0) is None


def test_what_flies_is_no_random_walk():
    straight = np.arange(500.0)[:, None, None] * np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    assert diffusion.coefficient([straight], 1.0) is None
