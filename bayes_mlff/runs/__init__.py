"""Files of a run: run directory, checkpoints, trajectory and logs."""
