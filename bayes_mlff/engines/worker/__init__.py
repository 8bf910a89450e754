"""An ASE calculator in a process of its own."""
