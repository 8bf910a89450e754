"""Labels by the queue of a real SLURM, with accidents."""
