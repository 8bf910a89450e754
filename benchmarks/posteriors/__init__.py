"""What a representation of the posterior costs and what its uncertainties know."""
