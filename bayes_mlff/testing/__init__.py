"""Public test batteries for models, and structures and faulty engines for tests."""
