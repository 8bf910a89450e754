"""Predictions of several posterior samples, and how far to trust them."""
