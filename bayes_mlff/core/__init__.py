"""Units, errors and shared value types; imports numpy and the standard library only."""
