"""Units, errors, settings, file writing and other tools that every part of the package uses."""
