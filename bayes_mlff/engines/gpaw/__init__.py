"""Periodic density functional theory with GPAW."""
