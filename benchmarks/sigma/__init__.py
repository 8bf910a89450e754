"""Whether σ of energies knows where the errors are, on labelled frames that a run has not learnt."""
