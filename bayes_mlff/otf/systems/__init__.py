"""Built-in systems: structure, engine and schedule."""
