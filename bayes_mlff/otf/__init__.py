"""On-the-fly runs: molecular dynamics that requests labels and retrains its potential."""
