"""Molecular dynamics that stops when the model is uncertain or a limit is exceeded."""
