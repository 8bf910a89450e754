"""Transfer learning on published data: which scenarios, how they are run, and what comes out."""
