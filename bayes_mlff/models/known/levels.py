"""Levels of theory of the data sets on which published models are trained."""

from typing import Final

from bayes_mlff.data.level import Level

MATERIALS_PROJECT: Final = Level("PBE", ("Co", "Cr", "Fe", "Mn", "Mo", "Ni", "V", "W"), ("O", "F"))
"""PBE, with +U for eight metals in oxides and fluorides (Jain et al. 2011, Phys. Rev. B 84, 045115; MPRelaxSet of
pymatgen). MPtrj has it, and sAlex and OMat24 follow it."""

PBE: Final = Level("PBE")
RPBE: Final = Level("RPBE")
"""Of OC20 (Chanussot et al. 2021, ACS Catal. 11, 6059)."""
PBE_TS: Final = Level("PBE", dispersion="TS")
R2SCAN: Final = Level("r2SCAN")
WB97M_D3: Final = Level("ωB97M", dispersion="D3(BJ)")
WB97M_V: Final = Level("ωB97M", dispersion="VV10")
SURFACES: Final = Level("PBE", None, dispersion=None)
"""Of the head for OC20: its name says PBE; whether +U is in it, and with what, is not documented where we looked."""
