"""What older versions of SevenNet called or meant otherwise."""

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from bayes_mlff.core.errors import WeightsError
from bayes_mlff.models.importers.torch_weights import State

OLD_NAMES: Final = {
    "EdgeEmbedding": "edge_embedding",
    "reducing nn input to hidden": "reduce_input_to_hidden",
    "reducing nn hidden to energy": "reduce_hidden_to_energy",
}
"""Parts of a network that had other names; in those of the others spaces have become underscores."""


def version(settings: Mapping[str, Any]) -> tuple[int, ...]:
    """Version of SevenNet that wrote a checkpoint; development versions count as the preceding release.

    Raises:
      WeightsError: if it is no version.
    """
    text = str(settings["version"])
    found = re.match(r"(\d+)\.(\d+)\.(\d+)(\.dev)?", text)
    if found is None:
        raise WeightsError(f"SevenNet model is not supported: version is {text!r}")
    major, minor, patch = (int(n) for n in found.groups()[:3])
    return (major, minor, -1) if found[4] else (major, minor, patch)


def solid_harmonics(settings: Mapping[str, Any]) -> bool | None:
    """Whether harmonics grow with the distance, as in the first versions; None if a later one does not say it."""
    if "_normalize_sph" in settings:
        return not settings["_normalize_sph"]
    return True if version(settings) < (0, 10, 0) else None


def current_names(state: State) -> dict[str, np.ndarray]:
    """A state under the names of today.

    Raises:
      WeightsError: if two entries are the same one under different names.
    """
    renamed: dict[str, np.ndarray] = {}
    for name, value in state.items():
        part, dot, rest = name.partition(".")
        known = OLD_NAMES.get(part, part.replace(" ", "_")) + dot + rest.replace("denumerator", "denominator")
        if known in renamed:
            raise WeightsError(f"{name} and {known} are the same entry under different names")
        renamed[known] = value
    return renamed
