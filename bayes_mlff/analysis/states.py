"""States with hysteresis: what enters one only when it is well inside, and leaves it only into another."""

from typing import NamedTuple

import numpy as np


class Changes(NamedTuple):
    """Changes from one state to another, in the order of time."""

    left: np.ndarray  # [c] frame after the last one well inside the old state
    crossed: np.ndarray  # [c] first frame of the stretch, until well inside, that is nearer to the new state
    entered: np.ndarray  # [c] first frame well inside the new state
    before: np.ndarray  # [c] old state
    after: np.ndarray  # [c] new state


def with_hysteresis(nearest: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The state in each frame.

    Args:
      nearest: [t] whole numbers, the state that is nearest.
      inside: [t] bool, whether the frame is well inside its nearest state.

    Returns:
      [t]: the state that was last entered; -1 before the first.
    """
    place = np.maximum.accumulate(np.where(inside, np.arange(len(inside)), -1))
    return np.where(place >= 0, nearest[np.maximum(place, 0)], -1)


def changes(nearest: np.ndarray, inside: np.ndarray) -> Changes:
    """Changes between states; motion that comes back before it is well inside another state is none.

    Args:
      nearest: [t] whole numbers, the state that is nearest.
      inside: [t] bool, whether the frame is well inside its nearest state.
    """
    sure = np.flatnonzero(inside)
    states = nearest[sure]
    new = np.flatnonzero(np.diff(states)) + 1
    entered, left = sure[new], sure[new - 1] + 1
    crossed = []
    for begin, end in zip(left.tolist(), entered.tolist(), strict=True):
        elsewhere = np.flatnonzero(nearest[begin : end + 1] != nearest[end])
        crossed.append(begin + (int(elsewhere[-1]) + 1 if elsewhere.size else 0))
    return Changes(left, np.array(crossed, int), entered, states[new - 1], states[new])


def residences(at: np.ndarray, frames: int) -> np.ndarray:
    """Lengths, in frames, of the whole stays between consecutive changes; the first and the last stay are cut off.

    Args:
      at: [c] frames of the changes, rising.
      frames: of the trajectory.
    """
    return np.diff(at[(at > 0) & (at < frames)])
