"""Presets of architectures, and of families of models that want other settings than the rest of their architecture."""

from typing import Final

from bayes_mlff.models.known.entry import Entry, Preset

NEQUIP: Final = Preset(0.2, 1e-3, found="σ_TL as in the published runs of NequIP; the others by runs of ethanol")

MACE: Final = Preset(0.5, 1e-3, found="σ_TL as in the published runs of MACE; the others by runs of LaMnO3")

NEQUIX: Final = Preset(
    0.05,
    3e-4,
    found="fine-tuning of nequix-mp-1 on 30 frames of ethanol with labels of GFN2-xTB, 800 steps, one seed: with 0.2 "
    "and 1e-3, those of NequIP, forces on other frames became worse than before",
)

EQUIFORMER_V2: Final = Preset(0.2, 1e-3, found="no runs yet: the values of NequIP")

PRESETS: Final = {"nequip": NEQUIP, "mace": MACE, "equiformer_v2": EQUIFORMER_V2, "Nequix": NEQUIX}
"""By architecture or family."""


def whose(known: Entry) -> tuple[Preset, str]:
    """The preset that a model of the catalogue gets, and whose it is."""
    if known.preset is not None:
        return known.preset, f"the model {known.name}"
    if known.family:
        return PRESETS[known.family], known.family
    return PRESETS[known.architecture], f"the architecture {known.architecture}"
