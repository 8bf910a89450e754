"""Whether model and reference are at the same level of theory, said before anything is calculated."""

from collections.abc import Collection

from bayes_mlff.data.level import Level, differences
from bayes_mlff.models.origin import Origin

UNCOMPARED = "not compared with that of the reference"


def remark(origin: Origin, reference: Level | None, symbols: Collection[str]) -> str | None:
    """In which kind the level of a model's training data differs from that of the reference.

    Args:
      origin: of the model's weights.
      reference: level of the labels; None if it is not known.
      symbols: elements of the structure.

    Returns:
      One line; None if the levels are the same in functional, +U and dispersion.
    """
    trained = origin.level
    if trained is None:
        whose = "that of the labels of its fine-tuning" if origin.tuned else "not known"
        return f"of the model: {whose}; {UNCOMPARED}"
    if reference is None:
        return f"of the model: {trained.text}; that of the reference is not known here, and not compared"
    found = differences(trained, reference, symbols)
    if not found:
        return None
    return (
        f"the model was trained on {trained.text}, the reference is {reference.text} ({'; '.join(found)}): the first "
        "label shifts all energies to the model's zero, and what else differs has to be learnt"
    )
