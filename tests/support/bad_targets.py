"""Every reader that hostile input is tried on."""

from tests.support import bad_files, bad_input, bad_runs, bad_weights
from tests.support.bad_input import Target


def every_target() -> list[Target]:
    """Targets of settings, of labels and structures, of run directories, and of weights."""
    return [
        *bad_input.config_targets(),
        *bad_files.file_targets(),
        *bad_runs.run_targets(),
        *bad_weights.weight_targets(),
    ]
