"""Molecular dynamics that stops itself."""
