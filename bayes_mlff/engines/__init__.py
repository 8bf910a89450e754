"""Reference methods (engines), which compute energy, forces and stress of a structure."""
