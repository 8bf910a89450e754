"""Report of a run: figures and tables."""
