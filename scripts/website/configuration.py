"""The keys of a configuration as text, from the models that validate them.

Nothing about a key is written here but an example of those whose default is none. A key without a description, without
an example, or with an example that its model refuses is an error, and so is an example of a key that does not exist.
"""

import types
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bayes_mlff.core.settings import dump_value
from website.examples import EXAMPLES

UNITS: Final = {
    "_kcal_mol_atom_ps": "kcal/mol per atom and ps",
    "_kcal_mol_a3": "kcal/mol/Å³",
    "_kcal_mol_a": "kcal/mol/Å",
    "_per_gpa": "1/GPa",
    "_per_fs": "1/fs",
    "_angstrom": "Å",
    "_hartree": "hartree",
    "_gib": "GiB",
    "_gpa": "GPa",
    "_ev": "eV",
    "_fs": "fs",
    "_ps": "ps",
    "_mb": "MB",
    "_k": "K",
    "_s": "s",
}
"""Units by the end of a key's name."""

KINDS: Final = ("kind", "name")
"""Keys whose value chooses one of several kinds of a section."""

SIMPLE: Final = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    type(None): "`null`",
}


class Key(NamedTuple):
    """One key of a configuration."""

    name: str  # dotted; kinds of a section in square brackets
    kind: str  # type, range and unit in words
    default: str
    meaning: str
    example: str  # as YAML, on one line


class Part(NamedTuple):
    """A section with its keys."""

    name: str  # dotted; empty: the outermost
    meaning: str
    keys: tuple[Key, ...]
    same_as: str | None  # name of a section that has the same keys and was listed before


def text(model: type[BaseModel], examples: dict[str, Any] = EXAMPLES) -> str:
    """All keys of a configuration as Markdown: a heading for each section, a definition for each key.

    Raises:
      ValueError: naming a key without a description or a valid example.
    """
    return "\n".join(line for part in parts(model, examples) for line in _lines(part))


def parts(model: type[BaseModel], examples: dict[str, Any] = EXAMPLES) -> list[Part]:
    """All sections of a configuration, each before the sections in it."""
    return list(_parts(model, "", (model.__doc__ or "").splitlines()[0], {}, examples))


def _parts(
    model: type[BaseModel], name: str, meaning: str, known: dict[type, str], examples: dict[str, Any]
) -> Iterator[Part]:
    if model in known:
        yield Part(name, meaning, (), known[model])
        return
    known[model] = name
    fields = {f"{name}.{key}".lstrip("."): field for key, field in model.model_fields.items()}
    yield Part(name, meaning, tuple(_key(key, field, examples) for key, field in fields.items()), None)
    for key, field in fields.items():
        inside = sections(field.annotation)
        for section in inside:
            chosen = next((section.model_fields[k].default for k in KINDS if k in section.model_fields), None)
            shown = f"{key}[{chosen}]" if len(inside) > 1 else key
            said = (section.__doc__ or "").splitlines()[0] if len(inside) > 1 else field.description or ""
            yield from _parts(section, shown, said, known, examples)


def sections(annotation: Any) -> list[type[BaseModel]]:
    """Classes of sections in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for inner in get_args(annotation) for section in sections(inner)]


def _key(name: str, field: FieldInfo, examples: dict[str, Any]) -> Key:
    if not field.description:
        raise ValueError(f"{name}: this key has no description")
    last = name.rpartition(".")[2]
    unit = next((unit for end, unit in UNITS.items() if last.endswith(end)), None)
    limits = _limits(field.metadata)
    kind = ", ".join([said_type(field.annotation), *limits]) + (f", in {unit}" if unit else "")
    return Key(name, kind, _default(field), field.description, f"{last}: {_example(name, field, examples)}")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "none: it must be set"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "its own defaults" if isinstance(value, BaseModel) else f"`{dump_value(_plain(value))}`"


def _example(name: str, field: FieldInfo, examples: dict[str, Any]) -> str:
    value = examples.get(name, examples.get(name.rpartition(".")[2], PydanticUndefined))
    default = (
        PydanticUndefined if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
    )
    usable = default is not PydanticUndefined and default not in (None, (), {}, "")
    if usable:
        return dump_value(_plain(default.model_dump(mode="json") if isinstance(default, BaseModel) else default))
    if value is PydanticUndefined:
        raise ValueError(f"{name}: this key has no example")
    try:
        TypeAdapter(Annotated[(field.annotation, Field(), *field.metadata)]).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{name}: the example {value!r} is refused: {error}") from error
    return dump_value(value)


def _plain(value: Any) -> Any:
    """The same with lists for tuples, as YAML has it."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def said_type(annotation: Any) -> str:
    """A type in words of YAML."""
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    said = _COMPOSED.get(get_origin(annotation))
    return "any value" if said is None else said(get_args(annotation))


def _said_union(inner: tuple[Any, ...]) -> str:
    return " or ".join(dict.fromkeys(map(said_type, inner)))


def _said_annotated(inner: tuple[Any, ...]) -> str:
    limits = [limit for each in inner[1:] for limit in _limits(getattr(each, "metadata", [each]))]
    return ", ".join([said_type(inner[0]), *limits])


_COMPOSED: Final[dict[Any, Callable[[tuple[Any, ...]], str]]] = {
    Annotated: _said_annotated,
    Literal: lambda inner: " or ".join(f"`{value}`" for value in inner),
    Union: _said_union,
    types.UnionType: _said_union,
    tuple: lambda inner: f"list{'' if inner[-1] is Ellipsis else f' of {len(inner)}'}: {said_type(inner[0])}",
    dict: lambda inner: f"mapping of names to: {said_type(inner[1])}",
}
"""Types that are made of others."""


def _limits(metadata: list[Any]) -> list[str]:
    words = {
        annotated_types.Gt: ("gt", "above"),
        annotated_types.Ge: ("ge", "at least"),
        annotated_types.Lt: ("lt", "below"),
        annotated_types.Le: ("le", "at most"),
        annotated_types.MultipleOf: ("multiple_of", "a multiple of"),
    }
    found = []
    for each in metadata:
        attribute, word = words.get(type(each), (None, ""))
        value = None if attribute is None else getattr(each, attribute)
        # What keeps numbers within 32 bits or float32 is no range that anyone chooses in.
        if isinstance(value, int | float) and abs(value) < 2**31 - 1:
            found.append(f"{word} {value:g}")
    return list(dict.fromkeys(found))


def _lines(part: Part) -> Iterator[str]:
    if part.name:
        yield from (f"## `{part.name}` {{#{part.name}}}", "")
    yield from (part.meaning, "")
    if part.same_as is not None:
        yield from (f"The keys are those of [`{part.same_as}`](#{part.same_as}).", "")
    for key in part.keys:
        anchor = f"key-{key.name}"
        yield from (f"`{key.name}` {{#{anchor}}}", f":   {key.meaning}", "")
        yield from (f"    *{key.kind}; default {key.default}.* For example `{key.example}`", "")
