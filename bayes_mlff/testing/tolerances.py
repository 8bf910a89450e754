"""Tolerances for two ways of computing the same number in float64."""

from typing import Final

SYMMETRY: Final = 1e-9
"""Relative to the largest component: results that are equal in exact arithmetic, summed in another order."""

SLOPE: Final = 1e-6
"""Relative: central differences of energies with a step of `SLOPE_STEP` against forces and stress."""

SLOPE_STEP: Final = 2e-4
"""Å on each coordinate, or strain: truncation is of order step⁴, rounding of order 1e-15/step."""

CUTOFF_RATIO: Final = 3.0
"""Least factor by which the force of a pair just inside the cutoff shrinks when its distance to it is halved.

Four for an envelope with two continuous derivatives, two for one, one for a force that jumps.
"""

PARITY: Final = 1e-9
"""Relative to the largest component: against another implementation with the same weights."""
