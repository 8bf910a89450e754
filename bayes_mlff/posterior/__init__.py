"""Prior, likelihood and the per-datum potential of the sampler."""
