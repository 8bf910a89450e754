"""Spectra of motions that are known exactly."""

import numpy as np
import pytest
from scipy import stats

from bayes_mlff.analysis import vibrations
from bayes_mlff.core import units

INTERVAL = 2.0
"""fs"""


def circle(frames, period, speed=1.0):
    """Velocities of circular motion, whose square is constant; period in frames."""
    phase = 2.0 * np.pi * np.arange(frames) / period
    return speed * np.stack([np.cos(phase), np.sin(phase), 0.0 * phase], axis=1)[:, None]


def test_a_harmonic_oscillator_has_one_line_at_its_frequency():
    frames, segment, period = 4000, 1000, 12.5
    velocities, masses = circle(frames, period), np.ones(1)
    found = vibrations.spectrum([velocities], masses, [np.arange(1)], INTERVAL, length=segment)
    exact = 1.0 / (period * INTERVAL) / units.PER_CM
    assert found.wavenumber[np.argmax(found.density[0])] == pytest.approx(exact, rel=1e-12)  # 80 periods: a bin
    assert found.sum_rule == pytest.approx(1.0, rel=1e-12)
    assert np.sum(found.density) * found.wavenumber[1] == pytest.approx(1.0, rel=1e-12)
    assert found.segments == 7
    half = found.density[0] >= 0.5 * found.density[0].max()
    assert half.sum() * found.wavenumber[1] == pytest.approx(
        found.resolution, rel=0.31
    )  # one bin to both sides is 0.25
    between = vibrations.spectrum([circle(frames, 12.613)], masses, [np.arange(1)], INTERVAL, length=segment)
    off = between.wavenumber[np.argmax(between.density[0])] - 1.0 / (12.613 * INTERVAL) / units.PER_CM
    assert abs(off) <= 0.5 * between.wavenumber[1]


def test_lines_have_the_kinetic_energy_of_their_atoms():
    masses = np.array([1.0, 16.0, 4.0])
    velocities = np.concatenate([circle(2000, 10.0, 2.0), circle(2000, 50.0, 0.5), circle(2000, 20.0, 1.0)], axis=1)
    groups = [np.array([0, 2]), np.array([1])]
    found = vibrations.spectrum([velocities], masses, groups, INTERVAL, length=500)
    assert np.allclose(found.density.sum(axis=1) * found.wavenumber[1], [8 / 12, 4 / 12], rtol=1e-12)
    peaks = [found.wavenumber[np.argmax(row)] * units.PER_CM * INTERVAL for row in found.density]
    assert peaks[1] == pytest.approx(1 / 50.0) and peaks[0] in (pytest.approx(1 / 10.0), pytest.approx(1 / 20.0))


def test_autocorrelation_of_circular_motion_is_a_cosine():
    both = np.concatenate([circle(300, 17.0), circle(300, 5.0)], axis=1)
    got = vibrations.autocorrelation([both], np.array([3.0, 1.0]), 40)
    lag = 2.0 * np.pi * np.arange(40)
    assert np.allclose(got, 0.75 * np.cos(lag / 17.0) + 0.25 * np.cos(lag / 5.0), rtol=0, atol=1e-12)


def test_uncorrelated_velocities_have_a_flat_spectrum():
    """120 segments' means are near Gaussian; four bands with |z| < 4.5: false-alarm rate 3e-5."""
    rng = np.random.default_rng(6)
    series = [rng.normal(size=(2000, 5, 3)) for _ in range(3)]
    found = vibrations.spectrum(series, np.ones(5), [np.arange(5)], INTERVAL, length=100)
    flat = 1.0 / (found.wavenumber[-1])
    inner = found.density[0, 1:-1].reshape(7, 7).mean(axis=1) / flat
    error = np.sqrt(36 / 19 / (3 * 2000 / 100 * 2 * 15 * 7))  # overlapping Hann segments
    assert np.abs(inner - 1.0).max() < 4.5 * 1.2 * error
    assert found.sum_rule == pytest.approx(1.0, abs=4.5 * np.sqrt(2.0 / 90000) * 2)
    assert stats.norm.sf(4.5) * 8 < 3e-5


def test_temperature_of_known_velocities():
    masses, kelvin = np.array([1.008, 15.999, 196.97]), 321.0
    speed = np.sqrt(units.KB * kelvin / masses) * units.FS  # of each direction
    velocities = np.broadcast_to(speed[:, None], (4, 3, 3)) * np.array([1.0, -1.0, 1.0])
    assert vibrations.temperature(velocities, masses) == pytest.approx(kelvin, rel=1e-12)
