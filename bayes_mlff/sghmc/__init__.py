"""Preconditioned stochastic-gradient Hamiltonian Monte Carlo over any pytree; knows no atoms."""
