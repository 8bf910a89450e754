"""Settings of a program: sections closed to unknown keys, YAML, and errors that say what is allowed."""

import difflib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bayes_mlff.core.errors import ConfigError

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Location = tuple[int | str, ...]


class Section(BaseModel):
    """Frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Settings = TypeVar("Settings", bound=Section)


def validate(
    model: type[Settings], raw: Any, *, tags: Collection[str], fields_beside: Callable[[Location], set[str]]
) -> Settings:
    """Make settings of values read from YAML.

    Args:
      model: the outermost section.
      raw: what was read.
      tags: values of discriminators, which pydantic puts into the locations of errors and users never typed.
      fields_beside: names of the fields of the section in which the last part of a location stands.

    Raises:
      ConfigError: for the first problem, naming the dotted key, what came and what is allowed.
    """
    if not isinstance(raw, dict):
        raise ConfigError("config", raw, "a mapping of keys to values")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, tags, fields_beside) from error


def read_yaml(path: Path) -> Any:
    """Contents of a YAML file, not validated.

    Raises:
      ConfigError: if the file is missing or not YAML.
    """
    if not path.is_file():
        raise ConfigError("config", str(path), "the path of an existing YAML file")
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError("config", str(path), f"valid YAML ({error})") from error


def dump(settings: Section) -> str:
    """Settings as YAML with every default written out."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _explain(
    error: ValidationError, tags: Collection[str], fields_beside: Callable[[Location], set[str]]
) -> ConfigError:
    first = error.errors()[0]
    parts = [str(p) for p in first["loc"] if p not in tags]
    key = ".".join(parts) or "config"
    if first["type"] == "extra_forbidden":
        siblings = sorted(fields_beside(first["loc"]))
        close = difflib.get_close_matches(parts[-1], siblings, n=1)
        hint = f"unknown key (did you mean '{close[0]}'?); " if close else "unknown key; "
        return ConfigError(key, first["input"], hint + f"keys here: {', '.join(siblings)}")
    if first["type"] == "missing":
        return ConfigError(key, None, "this key is required")
    return ConfigError(key, first["input"], first["msg"].removeprefix("Value error, "))
