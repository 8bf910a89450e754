"""Molecular dynamics that labels and retrains itself."""
