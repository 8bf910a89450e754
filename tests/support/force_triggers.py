"""Triggers on forces, for tests of what compares, guards and records them."""

from bayes_mlff.ensemble.statistics import Region, on_forces

EVERYWHERE = on_forces("force", Region("an atom", (0, 1)))
"""Of the two atoms of `guard_states`."""
