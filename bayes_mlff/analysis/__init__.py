"""What a trajectory says: pure functions on arrays, and findings with figure, table and JSON; needs no JAX.

Arrays are in Å, fs, amu and Å/fs; frames are the first axis. `analyse` reads files and writes findings.
"""
