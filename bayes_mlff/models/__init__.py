"""Interatomic potentials as pure functions, and energies, forces and stress from them."""
