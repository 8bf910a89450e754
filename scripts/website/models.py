"""The models that are known by name, and their presets, as tables."""

from bayes_mlff.models import catalogue
from bayes_mlff.models.known import presets
from bayes_mlff.models.known.entry import Entry, InPackage, Shipped


def table() -> str:
    """All models with what decides between them, as Markdown."""
    lines = [
        "| model | elements | level of theory | licence | cutoff, Å | weights | cost | comes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_row, catalogue.ENTRIES.values())])


def preset_table() -> str:
    """All presets of architectures and families, as Markdown."""
    keys = " | ".join(f"`{key}`" for key in presets.NEQUIP.keys)
    lines = [f"| architecture or family | {keys} | found by |", "|---|---|---|---|---|---|"]
    for name, each in presets.PRESETS.items():
        values = " | ".join(f"{value:g}" for value in each.keys.values())
        lines.append(f"| {name} | {values} | {each.found} |")
    return "\n".join(lines)


def _row(known: Entry) -> str:
    heads = f", {len(known.heads)} heads" if known.heads else ""
    licence = known.licence.name + ("" if known.licence.commercial else " (not commercial)")
    cells = (
        f"`{known.name}`",
        known.elements,
        known.level.text + heads,
        licence,
        "" if known.cutoff is None else f"{known.cutoff:.1f}",
        "" if known.weights is None else f"{known.weights / 1e6:.2f} M",
        "" if known.cost is None else f"{known.cost:.3g}",
        _source(known),
    )
    return f"| {' | '.join(cells)} |"


def _source(known: Entry) -> str:
    if isinstance(known.source, Shipped):
        return "with this package"
    return f"with the extra `{known.source.extra}`" if isinstance(known.source, InPackage) else "as a download"
