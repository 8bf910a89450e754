"""Adsorption energies on metals: pretraining on some metals, transfer to others."""
