"""A configuration file to start from: every key with its default and what it means."""

from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bayes_mlff.engines.pyscf.engine import PyscfSettings
from bayes_mlff.otf.config import RunConfig


def template() -> str:
    """YAML of all keys; the only one without a default, `structure`, is set to ethanol."""
    lines = ["# Configuration of an on-the-fly run. Unknown keys are refused."]
    for name, field in RunConfig.model_fields.items():
        default = "ethanol" if name == "structure" else field.default
        lines += _entry(name, field, default, indent=0)
    return "\n".join(lines) + "\n"


def _entry(name: str, field: FieldInfo, default: Any, indent: int) -> list[str]:
    pad = "  " * indent
    comment = [f"{pad}# {field.description}"] if field.description else []
    if isinstance(default, BaseModel):
        lines = ["", *comment, f"{pad}{name}:"]
        if isinstance(default, PyscfSettings):
            lines.insert(1, f"{pad}# Reference: pyscf, gpaw, chgnet, or ase, worker with calculator: module:Class")
        for key, sub in type(default).model_fields.items():
            lines += _entry(key, sub, getattr(default, key), indent + 1)
        return lines
    value = yaml.safe_dump(default, default_flow_style=True).strip().removesuffix("...").strip()
    return [*comment, f"{pad}{name}: {value}"]
