"""Fitting the weights of a network to a large collection of labelled frames, for `scripts/pretrain.py`."""
