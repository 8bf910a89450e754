"""Preconditioned stochastic-gradient Hamiltonian Monte Carlo over any pytree; independent of atoms and models."""
