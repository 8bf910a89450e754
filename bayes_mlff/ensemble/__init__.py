"""Predictions of several posterior samples, and their calibrated uncertainty."""
