"""Dynamics with a trained ensemble and no reference method."""
