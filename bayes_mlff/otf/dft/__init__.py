"""Reference engines behind one interface."""
