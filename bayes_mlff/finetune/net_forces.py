"""Net force and torque of labels: an isolated molecule, or a crystal as a whole, feels none."""

from typing import Final

import numpy as np

from bayes_mlff.data.labelled_frames import Frames

LARGE: Final = 0.1
"""Net force or torque above which a warning is given, relative to the sum of independent forces of that size."""


def net(frames: Frames) -> dict[str, float]:
    """Root mean square over frames of the net force and, for molecules, of the net torque.

    Frames with unknown force components are left out.

    Returns:
      `force_ev_a`, and for non-periodic frames `torque_ev` around the mean position of the atoms;
      `force_relative` and `torque_relative`, the same divided by the root of the summed squares of the forces, and
      of lever arm times force. Quantities that no frame has are missing.
    """
    whole = (frames.known_forces == frames.node_mask[..., None]).all(axis=(1, 2))
    found: dict[str, float] = {}
    if whole.any():
        forces = frames.forces[whole]
        total, size = np.sum(forces.sum(axis=1) ** 2, axis=1), np.sum(forces**2, axis=(1, 2))
        found["force_ev_a"] = float(np.sqrt(np.mean(total)))
        found["force_relative"] = _ratio(total, size)
    free = whole & ~frames.pbc.any(axis=1) & (frames.atoms > 1)
    if free.any():
        real = frames.node_mask[free][..., None]
        centre = np.sum(frames.positions[free], axis=1, where=real, keepdims=True) / real.sum(axis=1, keepdims=True)
        lever = np.where(real, frames.positions[free] - centre, 0.0)
        torque = np.sum(np.cross(lever, frames.forces[free]).sum(axis=1) ** 2, axis=1)
        size = np.sum(np.sum(lever**2, axis=2) * np.sum(frames.forces[free] ** 2, axis=2), axis=1)
        found["torque_ev"] = float(np.sqrt(np.mean(torque)))
        found["torque_relative"] = _ratio(torque, size)
    return found


def _ratio(total: np.ndarray, size: np.ndarray) -> float:
    return float(np.sqrt(np.mean(total) / np.mean(size))) if size.any() else 0.0


def sentences(found: dict[str, float], key: str) -> list[str]:
    """Sentences about a set: its net force and torque, and a warning if they are large."""
    if not found:
        return []
    parts = [f"{found['force_ev_a']:.3g} eV/Å ({found['force_relative']:.2%} of the sum of independent forces)"]
    if "torque_ev" in found:
        parts.append(f"net torque {found['torque_ev']:.3g} eV ({found['torque_relative']:.2%})")
    said = [f"{key}: net force {', '.join(parts)}"]
    if max(found["force_relative"], found.get("torque_relative", 0.0)) > LARGE:
        said.append(
            f"warning: {key}: the forces do not add up to zero. Possible causes are an external field, missing atoms, "
            "constraints or inaccurate forces; a potential of positions alone cannot learn this part"
        )
    return said
