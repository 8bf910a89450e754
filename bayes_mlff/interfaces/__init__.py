"""A trained ensemble in other programs: ASE, i-PI, OpenMM and LAMMPS.

Each module has what its program needs while it runs, the input files of an example, and an evaluation of structures
through that program, which the export compares with the ensemble's own prediction. The programs are optional: they are
imported when they are used.
"""
