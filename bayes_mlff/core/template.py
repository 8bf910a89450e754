"""Template of a configuration file: every key with its value, under a comment that describes it."""

import textwrap
from typing import Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bayes_mlff.core.settings import Section, dump_value

WIDTH: Final = 100
"""Largest number of characters in a comment line."""

KINDS: Final = ("kind", "name")
"""Keys that select the kind of a section; they are written first."""


def commented(settings: Section, title: str) -> str:
    """Write settings as YAML like `dump`, with the description of each key as a comment above it.

    Args:
      settings: the outermost section.
      title: first line of the file.
    """
    return "\n".join([*_comment(title, ""), *_entries(settings, "")]) + "\n"


def _entries(section: BaseModel, pad: str) -> list[str]:
    lines: list[str] = []
    fields = type(section).model_fields
    for name in sorted(fields, key=lambda name: name not in KINDS):
        value = getattr(section, name)
        comment = _comment(_description(fields[name], value), pad)
        if isinstance(value, BaseModel):
            lines += ["", *comment, f"{pad}{name}:", *_entries(value, pad + "  ")]
        else:
            lines += [*comment, f"{pad}{name}: {dump_value(value)}"]
    return lines


def _description(field: FieldInfo, value: object) -> str:
    if field.description or not isinstance(value, BaseModel):
        return field.description or ""
    return (type(value).__doc__ or "").splitlines()[0]


def _comment(text: str, pad: str) -> list[str]:
    return [f"{pad}# {line}" for line in textwrap.wrap(text, WIDTH - len(pad), break_long_words=False)]
