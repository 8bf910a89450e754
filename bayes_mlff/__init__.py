"""Bayesian on-the-fly fine-tuning of foundation interatomic potentials in JAX."""
