"""Engine that runs an ASE calculator in a separate process."""
