"""The result of an analysis, and the files that it is written to."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bayes_mlff.core import durable
from bayes_mlff.core.errors import ConfigError


class Finding(NamedTuple):
    """What one analysis found."""

    name: str  # as the user asks for it, and of its files
    title: str
    rows: list[tuple[str, str]]  # quantities and their values, for the screen
    assumed: list[str]  # what was taken where the user said nothing, and what limits the result
    table: Mapping[str, np.ndarray]  # columns of one length; names end in the unit
    results: Mapping[str, Any]  # numbers, texts and arrays; names end in the unit
    png: bytes


def write(finding: Finding, folder: Path, source: list[dict[str, Any]]) -> list[Path]:
    """Write NAME.png, NAME.csv and NAME.json, in the place of earlier ones.

    Args:
      finding: the result.
      folder: exists.
      source: what is known of each trajectory, for the JSON file.

    Returns:
      The files.

    Raises:
      ConfigError: if a file cannot be written.
    """
    text = io.StringIO()
    columns = [np.asarray(column) for column in finding.table.values()]
    text.write(",".join(finding.table) + "\n")
    for row in zip(*columns, strict=True):
        text.write(",".join(f"{x:.9g}" if isinstance(x, float | np.floating) else str(x) for x in row) + "\n")
    content = {
        "analysis": finding.name,
        "title": finding.title,
        "trajectories": source,
        "assumed": finding.assumed,
        "results": _plain(finding.results),
    }
    files = {
        "png": finding.png,
        "csv": text.getvalue().encode(),
        "json": (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(),
    }
    paths = [folder / f"{finding.name}.{suffix}" for suffix in files]
    for path, data in zip(paths, files.values(), strict=True):
        try:
            durable.write_whole(path, data)
        except OSError as error:
            raise ConfigError("--output", str(path), f"a file that can be written ({error.strerror})") from error
    return paths


def _plain(value: Any) -> Any:
    """Numbers of JSON: arrays as lists, and what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
