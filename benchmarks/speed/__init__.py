"""Speed of the two costs that a run has besides the reference: updating chains and moving atoms."""
