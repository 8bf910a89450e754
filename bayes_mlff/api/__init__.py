"""Functions to start runs and fine-tunings and to use their results, for Python and for the program."""
