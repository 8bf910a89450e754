"""Runs, fine-tunings and what they leave, for Python and for the program."""
