"""What several tests share: planted faults, bad inputs, runs in child processes."""
