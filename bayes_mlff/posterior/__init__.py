"""Prior, likelihood and the per-datum potential that the sampler sees."""
