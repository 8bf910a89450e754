"""Density functional theory of molecules with PySCF."""
