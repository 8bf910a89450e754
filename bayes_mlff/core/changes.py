"""Differences between two configurations of the same type."""

from typing import Any, NamedTuple

from bayes_mlff.core.settings import Section


class Change(NamedTuple):
    """One setting whose value has changed."""

    key: str  # dotted configuration key
    before: Any
    after: Any


def changes(before: Section, after: Section) -> tuple[Change, ...]:
    """List all settings that differ, in the order of the configuration."""
    return tuple(_differences("", before.model_dump(mode="json"), after.model_dump(mode="json")))


def _differences(prefix: str, before: dict[str, Any], after: dict[str, Any]):
    for name in before | after:
        key, old, new = f"{prefix}{name}", before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(f"{key}.", old, new)
        elif old != new:
            yield Change(key, old, new)
