"""Models of the NequIP family: our own, SevenNet, Nequix, NequIP.

Where the facts are from: SevenNet's from the package sevenn 0.13.0, whose wheel contains the files; Nequix' from its
files (mp-1, omat-1, oam-1) and the table in its README. Costs are from `scripts/measure_cost.py` on one core. Those
of NequIP-OAM-L and -MP-L were taken with random weights of the configuration that matbench-discovery publishes, which
has their number of weights, 9 605 688, on a busy machine, and may be 20 % off. That of -XL is public too (32 136 296
weights), but took too long to compile; those of -S and -M were found nowhere.

Files of these that could not be had here have no checksum. NequIP's packages could not be had either: their addresses,
checksums, cutoffs, weights and licence are those that two public projects which use the files state.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from bayes_mlff.data.level import Level
from bayes_mlff.models.known.entry import CC_BY, MIT, Download, Entry, InPackage, Shipped
from bayes_mlff.models.known.levels import MATERIALS_PROJECT, PBE_TS, R2SCAN

_MANY: Final = "89 elements"

_OWN: Final = "this package; no publication of its own"

_NEQUIX: Final = "https://github.com/atomicarchitects/nequix/raw"
_MP: Final = f"{_NEQUIX}/7c2854de8e754b1a60274c7d9d2e014989ed632e/models"
_OMAT: Final = f"{_NEQUIX}/9c852a9c4cce69ae5e75bc5a2cf670be21ff8c28/models"
_PAPER_NEQUIX: Final = "Koker et al. 2025, Training a foundation model for materials on a budget, arXiv:2508.16067"
_PAPER_PFT: Final = "Koker et al. 2026, PFT: phonon fine-tuning, arXiv:2601.07742"

_ZENODO: Final = "https://zenodo.org/records/18775904/files"
_PAPER_NEQUIP: Final = (
    "NequIP and Allegro foundation potentials, doi:10.5281/zenodo.18775904; Tan et al., arXiv:2504.16068"
)

_PAPER_SEVENNET: Final = "Park et al. 2024, J. Chem. Theory Comput. 20, 4857, doi:10.1021/acs.jctc.4c00190"

_PAPER_SEVENNET_MF: Final = "Kim et al. 2025, J. Am. Chem. Soc. 147, 1042, doi:10.1021/jacs.4c14455"


def _sevennet(
    name: str,
    path: str,
    sha256: str,
    weights: int,
    cost: float | None = None,
    data: str = "MPtrj",
    citation: str = _PAPER_SEVENNET,
    heads: Mapping[str, Level] = MappingProxyType({}),
) -> Entry:
    source = InPackage("sevenn", f"pretrained_potentials/{path}", sha256, "sevennet")
    return Entry(name, "nequip", _MANY, MATERIALS_PROJECT, data, MIT, source, citation, 5.0, weights, cost, heads)


def _nequix(name: str, folder: str, sha256: str | None, data: str, citation: str) -> Entry:
    source = Download(f"{folder}/{name}.nqx", ".nqx", sha256)
    return Entry(
        name, "nequip", _MANY, MATERIALS_PROJECT, data, MIT, source, citation, 6.0, 707_658, 93.0, family="Nequix"
    )


def _oam(
    size: str,
    sha256: str,
    weights: int | None,
    cost: float | None = None,
    data: str = "OMat24, then sAlex and MPtrj",
) -> Entry:
    kind = "MP" if data == "MPtrj" else "OAM"
    source = Download(f"{_ZENODO}/NequIP-{kind}-{size}-0.1.nequip.zip?download=1", ".nequip.zip", sha256)
    name = f"nequip-{kind}-{size}".lower()
    return Entry(name, "nequip", _MANY, MATERIALS_PROJECT, data, CC_BY, source, _PAPER_NEQUIP, 6.0, weights, cost)


SHIPPED: Final = (
    Entry(
        "nequip-md17-small",
        "nequip",
        "H C N O",
        PBE_TS,
        "MD17: ten organic molecules near equilibrium",
        MIT,
        Shipped("nequip_md17_small.safetensors"),
        f"{_OWN}; data: Chmiela et al. 2017, Sci. Adv. 3, e1603015, doi:10.1126/sciadv.1603015",
        4.0,
        152_393,
        2.1,
        zero="one energy for each element, fitted to the training data",
    ),
    Entry(
        "mace-perovskite-small",
        "mace",
        "H O S Ca Ti Mn Sr Zr La",
        MATERIALS_PROJECT,
        "labels by SevenNet-0 of 13 perovskites, with and without protons",
        MIT,
        Shipped("mace_perovskite_small.safetensors"),
        f"{_OWN}; teacher: {_PAPER_SEVENNET}",
        4.5,
        35_385,
        1.0,
        zero="one energy for each element, fitted to the training data",
    ),
)
"""Models that come with this package, with their σ heads."""

NEQUIP: Final = (
    _sevennet(
        "sevennet-0",
        "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
        "7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36",
        842_440,
        49.0,
    ),
    _sevennet(
        "sevennet-0-22may2024",
        "SevenNet_0__22May2024/checkpoint_sevennet_0.pth",
        "5d389fafd512e6ae2830d74d0b66ffc49a55d3832653ff8e7bf7f1343013c1d1",
        842_440,
        49.0,
    ),
    _sevennet(
        "sevennet-mf-0",
        "SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
        "81791329b37d445f46b531578c182c41792d98c7814222c9e5dde276402225fd",
        845_896,
        49.0,
        data="MPtrj, and r2SCAN calculations of the Materials Project",
        citation=_PAPER_SEVENNET_MF,
        heads={"PBE": MATERIALS_PROJECT, "R2SCAN": R2SCAN},
    ),
    _sevennet(
        "sevennet-l3i5",
        "SevenNet_l3i5/checkpoint_l3i5.pth",
        "a7ff190d41efe5b8317a03d20a468e4036a1a3e64e0b14fdbab64ac3f4bfc09d",
        1_171_144,
        110.0,
    ),
    _nequix(
        "nequix-mp-1",
        _MP,
        "1647af8e627e1afa11e2bfadeab0797326513a521afd7dd01606a96f56783eee",
        "MPtrj",
        _PAPER_NEQUIX,
    ),
    _nequix("nequix-mp-1-pft", _MP, None, "MPtrj, then phonons of MDR", _PAPER_PFT),
    _nequix(
        "nequix-omat-1",
        _OMAT,
        "2d0802ae7f5915cb488c44d25649d98404a103697e6500abb40f515e003a46a6",
        "OMat24",
        _PAPER_PFT,
    ),
    _nequix(
        "nequix-oam-1",
        _OMAT,
        "6a43475eaeb32a7a049f36c1306d78aa1e7a17e8af37aeda7901c8fec0ca845c",
        "OMat24, sAlex and MPtrj",
        _PAPER_PFT,
    ),
    _nequix("nequix-oam-1-pft", _OMAT, None, "OMat24, sAlex and MPtrj, then phonons of MDR", _PAPER_PFT),
    _oam("S", "63d4bafd872850a014fd21dedeea416b61173a17750dee0b2b8dd2b126f407aa", None),
    _oam("M", "3b528d235a98d6daa582ab17d4bac44aa108659b8a69046ba8f4f51c257fb328", None),
    _oam("L", "5d01a4fab228abb3cdb6ace0033f93993729956bca6a42234a2a8816825b9a0f", 9_605_688, 180.0),
    _oam("XL", "99c3799b28026f1ecf66c413292038a27a0749d4d4d7cd0b3a642f2e68df9e9c", 32_136_296),
    _oam("L", "dfbb68f6fab8d8135fc2be9c1cd92d468fe858254f2454fb891ea0da08dd6592", 9_605_688, 180.0, data="MPtrj"),
)
"""Models of other projects."""
