"""Settings of prior and chains from which fine-tuning a model starts, unless the user sets others.

The first of these that there is: the preset of the model in the catalogue; that of a family within its architecture,
which is recognised by the configuration of the network, so that files of any name and saved models are recognised, too;
that of the architecture.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bayes_mlff.models import architectures
from bayes_mlff.models.catalogue import ENTRIES
from bayes_mlff.models.known import presets as known_presets
from bayes_mlff.models.known.entry import Preset
from bayes_mlff.models.potential import Potential


class Chosen(NamedTuple):
    """A preset, and whose it is."""

    preset: Preset
    whose: str  # e.g. "the model nequix-mp-1", "Nequix", "the architecture mace"

    def line(self, used: Mapping[str, Any]) -> str:
        """What is used, and what of it is not from the preset.

        Args:
          used: values by keys; only those of a preset are looked at.
        """
        own = self.preset.keys
        taken = [f"{key} {used[key]:g}" for key in own if key in used and used[key] == own[key]]
        others = [f"{key} {used[key]:g} (there {own[key]:g})" for key in own if key in used and used[key] != own[key]]
        said = f"of {self.whose}: {', '.join(taken)}" if taken else f"of {self.whose}: not used"
        return f"{said}; set otherwise: {', '.join(others)}" if others else said


def of(potential: Potential, *, pretrained: bool = True) -> Chosen:
    """The preset of a model.

    Args:
      potential: the model.
      pretrained: whether its weights are used; random ones get the preset of their architecture.
    """
    row = architectures.of(potential.config)
    known = ENTRIES.get(potential.origin.name)
    if pretrained and known is not None:
        return Chosen(*known_presets.whose(known))
    family = next((each for each in row.families if each.has(potential.config)), None)
    if pretrained and family is not None:
        return Chosen(family.preset, family.name)
    return Chosen(row.preset, f"the architecture {row.name}")
