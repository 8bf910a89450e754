"""Frozen SevenNet models as their checkpoints would hold them."""

import functools
from typing import Any

import numpy as np

from tests.parity import make_sevennet_reference as reference
from tests.support.frozen_numbers import frozen


@functools.cache
def frozen_case(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and complete state, apart from entries without weights."""
    manifest, arrays = frozen(reference.PATH)
    entry = manifest["cases"][name]
    state = reference.known_state({k: tuple(v) for k, v in entry["shapes"].items()}, entry["settings"])
    state, prefix = reference.as_stored(state, entry["settings"]), f"{name}/state/"
    return entry["settings"], state | {k.removeprefix(prefix): v for k, v in arrays.items() if prefix in k}
