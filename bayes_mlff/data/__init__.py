"""Structures, labels, neighbour lists and padded graphs."""
