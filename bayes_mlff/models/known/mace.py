"""Models of the MACE family.

Where the facts are from: addresses, and which models have the licence ASL, from `mace/calculators/
foundations_models.py` of mace-torch 0.3.16; training data, level and licence also from the table in that package's
description. The files themselves could not be had here. Checksums, cutoffs, heads and numbers of weights are therefore
those on which at least two public repositories agree that use the files (matbench-discovery, mace-off, and others);
numbers of weights of MP-0 were counted in our network. What is stated nowhere is left out.

Costs are from `scripts/measure_cost.py`, with random weights of the published configurations, as far as these are
public (`tests/parity/mace_published.py` lists them with their sources; that of OMAT-0 small follows from its name), and
for one head. Those but of MP-0 were taken on a busy machine, and may be 20 % off. MP-0 large has none: its
configuration was found nowhere.
"""

from typing import Final

from bayes_mlff.models.known.entry import ASL, MIT, Download, Entry, Licence
from bayes_mlff.models.known.levels import (
    MATERIALS_PROJECT,
    PBE,
    R2SCAN,
    SURFACES,
    WB97M_D3,
    WB97M_V,
)

_MP: Final = "https://github.com/ACEsuit/mace-mp/releases/download"
_FOUNDATIONS: Final = "https://github.com/ACEsuit/mace-foundations/releases/download"
_OFF: Final = "https://raw.githubusercontent.com/ACEsuit/mace-off/main/mace_off23"

_PAPER_MP: Final = "Batatia et al. 2023, A foundation model for atomistic materials chemistry, arXiv:2401.00096"
_PAPER_OFF: Final = "Kovács et al. 2023, MACE-OFF, arXiv:2312.15211"
_PAPER_MH: Final = "Batatia et al. 2025, Cross learning between electronic structure theories, arXiv:2510.25380"
_OMAT: Final = "Barroso-Luque et al. 2024, Open Materials 2024 (OMat24), arXiv:2410.12771"
_MATPES: Final = "Kaplan et al. 2025, A foundational potential energy surface dataset (MatPES), arXiv:2503.04070"

_MANY: Final = "89 elements"
_ORGANIC: Final = "H C N O F P S Cl Br I"


def _materials(
    name: str,
    file: str,
    sha256: str | None,
    data: str = "MPtrj",
    licence: Licence = MIT,
    cutoff: float | None = 6.0,
    weights: int | None = None,
    citation: str = _PAPER_MP,
    cost: float | None = None,
) -> Entry:
    """A model for the 89 elements of the Materials Project, at the level of that."""
    source = Download(file, sha256=sha256)
    return Entry(name, "mace", _MANY, MATERIALS_PROJECT, data, licence, source, citation, cutoff, weights, cost)


def _organic(size: str, sha256: str, cutoff: float | None, weights: int | None, cost: float) -> Entry:
    """A model of MACE-OFF23."""
    source, data = Download(f"{_OFF}/MACE-OFF23_{size}.model", sha256=sha256), "SPICE 1 and water clusters, neutral"
    name = f"mace-off23-{size}"
    return Entry(name, "mace", _ORGANIC, WB97M_D3, data, ASL, source, _PAPER_OFF, cutoff, weights, cost)


_DENSE: Final = 9_063_204
"""Weights of the medium models with density blocks."""

_DENSE_COST: Final = 40.0
"""Cost of these, and of the models of MatPES, which are fine-tuned from one."""

MACE: Final = (
    _materials(
        "mace-mp-0-small",
        f"{_MP}/mace_mp_0/2023-12-10-mace-128-L0_energy_epoch-249.model",
        "2ddb079cee0e131eaaf6912ba581b394551ead283e95c99cfe78c605d10b5736",
        weights=3_847_696,
        cost=6.5,
    ),
    _materials(
        "mace-mp-0-medium",
        f"{_MP}/mace_mp_0/2023-12-03-mace-128-L1_epoch-199.model",
        "01bfe22100139f424713cf921144e5509cbe353d67aa9fa1be9c6e1e0ed35845",
        weights=4_688_656,
        cost=37.0,
    ),
    _materials("mace-mp-0-large", f"{_MP}/mace_mp_0/MACE_MPtrj_2022.9.model", None, cutoff=None),
    _materials(
        "mace-mp-0b3",
        f"{_MP}/mace_mp_0b3/mace-mp-0b3-medium.model",
        "2f2be696351ac9e94fbe01cdfb6f017679acdbd2db7645209ef55fec9826b012",
        weights=_DENSE,
        cost=_DENSE_COST,
    ),
    _materials(
        "mace-mpa-0",
        f"{_MP}/mace_mpa_0/mace-mpa-0-medium.model",
        "75428afe3a1d7d8062e19bcaabd5c433623cabf308242ec9fb493e38604fb638",
        "MPtrj and sAlex",
        weights=_DENSE,
        cost=_DENSE_COST,
    ),
    _materials(
        "mace-omat-0-small",
        f"{_MP}/mace_omat_0/mace-omat-0-small.model",
        "0abfde07862cf1e93b8b4d03cb702f29ce9c344ff2fc4de2ec0d7166d6c113a5",
        "OMat24",
        ASL,
        None,
        citation=f"{_PAPER_MP}; {_OMAT}",
        cost=8.2,
    ),
    _materials(
        "mace-omat-0-medium",
        f"{_MP}/mace_omat_0/mace-omat-0-medium.model",
        "d4b14be9afa294eebdbe31a0280b26a0fa29715771e978cbfd3ca24e0d90307a",
        "OMat24",
        ASL,
        weights=_DENSE,
        citation=f"{_PAPER_MP}; {_OMAT}",
        cost=_DENSE_COST,
    ),
    _materials(
        "mace-matpes-pbe-0",
        f"{_FOUNDATIONS}/mace_matpes_0/MACE-matpes-pbe-omat-ft.model",
        "e618ad582b84239905b9c3b77ce6e9ce111b0ecd1533223a1a6aac7a696b8aa0",
        "MatPES-PBE, from OMAT-0",
        ASL,
        citation=f"{_PAPER_MP}; {_MATPES}",
        cost=_DENSE_COST,
    )._replace(level=PBE),
    _materials(
        "mace-matpes-r2scan-0",
        f"{_FOUNDATIONS}/mace_matpes_0/MACE-matpes-r2scan-omat-ft.model",
        "8f147ecffa1d06a696e5648b13b81abda9c96fda9d0fb3faba3cd3fb27d9bba9",
        "MatPES-r2SCAN, from OMAT-0",
        ASL,
        citation=f"{_PAPER_MP}; {_MATPES}",
        cost=_DENSE_COST,
    )._replace(level=R2SCAN),
    _materials(
        "mace-mh-1",
        f"{_FOUNDATIONS}/mace_mh_1/mace-mh-1.model",
        "a522eb7f59c7879963d41586528f4980baf33e086c94aa92e3eafdeccad3be47",
        "OMat24, then MPtrj, MatPES-r2SCAN, SPICE, OC20 and OMol25",
        ASL,
        citation=_PAPER_MH,
        cost=70.0,
    )._replace(
        heads={
            "omat_pbe": MATERIALS_PROJECT,
            "mp_pbe_refit_add": MATERIALS_PROJECT,
            "matpes_r2scan": R2SCAN,
            "spice_wB97M": WB97M_D3,
            "omol": WB97M_V,
            "oc20_usemppbe": SURFACES,
        }
    ),
    _organic("small", "165cce4cfec5a34b9c64d4ebf95de15d71106bb584b7291c8470f0749977c46f", 4.5, 694_320, 3.9),
    _organic("medium", "4842c52ad210d6e1f84d6cf1ffa70fae25a7e0d755ed55cf223f43913f587db7", 5.0, None, 11.0),
    _organic("large", "a29e397dbf3e7a24ac50a9b0dfc919bd5a62efa346f5895a6237b0950c1d76f4", None, None, 67.0),
)
"""All rows."""
