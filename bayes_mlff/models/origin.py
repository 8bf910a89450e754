"""From which published model weights come; stored with them, so that a copy or a restricted model still knows it."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from bayes_mlff.data.level import Level
from bayes_mlff.models.catalogue import ENTRIES

NAME, HEAD, TUNED = "origin", "origin_head", "origin_tuned"
"""Keys in the metadata of files."""


class Origin(NamedTuple):
    """The model of the catalogue that weights were, before any fine-tuning."""

    name: str = ""  # empty: not known, or random weights
    head: str = ""  # of several, the one that was kept
    tuned: bool = False  # whether the weights were fine-tuned since

    @property
    def level(self) -> Level | None:
        """The level of theory of the weights; None if it is not known, as after fine-tuning."""
        known = ENTRIES.get(self.name)
        return None if known is None or self.tuned else known.level_of(self.head or None)

    def metadata(self) -> dict[str, str]:
        """Entries of a file's metadata."""
        tuned = {TUNED: "yes"} if self.tuned else {}
        return {key: value for key, value in ((NAME, self.name), (HEAD, self.head)) if value} | tuned


NOWHERE: Final = Origin()
"""Of weights of which nothing is known, or random ones."""


def read(metadata: Mapping[str, str]) -> Origin:
    """The origin that a file states; an empty one for files of earlier versions, and for names that are not known."""
    name = metadata.get(NAME, "")
    return Origin(name, metadata.get(HEAD, ""), TUNED in metadata) if name in ENTRIES else NOWHERE
