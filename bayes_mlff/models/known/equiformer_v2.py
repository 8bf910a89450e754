"""Models of the EquiformerV2 family.

Where the facts are from: the address, the training data and what energies are counted from, from the documentation of
fairchem (`docs/core/model_checkpoints.md`); cutoff and sizes from the configuration that belongs to the file; the
number of weights was counted in fairchem-core 1.10.0. The file could not be had here, so that its checksum is not
known. The repository is under the MIT licence, and states no other one for the weights where we looked. Its cost was
not measured: the network takes minutes to compile.
"""

from typing import Final

from bayes_mlff.models.known.entry import MIT, Download, Entry
from bayes_mlff.models.known.levels import RPBE

_OC20: Final = "https://dl.fbaipublicfiles.com/opencatalystproject/models/2023_06/oc20/s2ef"
_PAPER: Final = "Liao et al. 2024, EquiformerV2, arXiv:2306.12059; data: Chanussot et al. 2021, OC20, arXiv:2010.09990"

EQUIFORMER_V2: Final = (
    Entry(
        "equiformer-v2-31m-oc20",
        "equiformer_v2",
        "those of OC20",
        RPBE,
        "OC20, all and MD: adsorbates of H, C, N, O on surfaces; forces are not the gradient of the energy",
        MIT,
        Download(f"{_OC20}/eq2_31M_ec4_allmd.pt", ".pt"),
        _PAPER,
        12.0,
        31_058_690,
        zero="clean surface and gas-phase adsorbate; the mean of the training data, one number for structures of any "
        "size, is left out",
    ),
)
"""All rows."""
