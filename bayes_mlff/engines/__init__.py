"""Reference methods: from a structure to its energy, forces and stress."""
