"""Which of several heads (SevenNet: modalities) of a file is taken."""

from collections.abc import Sequence

from bayes_mlff.core.errors import ConfigError


def chosen(heads: Sequence[str], head: str | None, source: str) -> int:
    """Position of a head.

    Args:
      heads: names of the heads of the file.
      head: the one that is asked for; None if none was.
      source: the file, for the message.

    Raises:
      ConfigError: listing the heads, if there is none of this name, or if none is named and there are several.
    """
    if head is None and len(heads) < 2:
        return 0
    if head not in heads:
        allowed = f"one of the heads of {source}: {', '.join(heads)}" if heads else f"none: {source} has no heads"
        raise ConfigError("head", head, allowed)
    return heads.index(head)
