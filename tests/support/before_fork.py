"""What all children of `child_runs` would do first is done once, in the process that they are forked from.

It is the last of the modules that this process imports.
"""

import gc

from bayes_mlff.engines import factories

for package in ("bayes_mlff", "ase"):
    factories.version(package)  # reads the metadata of everything that is installed
gc.collect()
gc.freeze()  # or else every child looks again and again through what was imported
