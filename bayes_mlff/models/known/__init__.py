"""Facts about the models that have a name; light to import."""
