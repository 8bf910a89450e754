"""Public test batteries for models, samplers and structures."""
