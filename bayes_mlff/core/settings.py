"""Settings of a program: sections that refuse unknown keys, YAML, and errors that say what is allowed.

The YAML read here is simpler than PyYAML's: numbers and booleans are those of YAML 1.2, so that `1e-3` is a number and
`1:30`, `010`, `No` and dates are text. Duplicate keys are errors, and so are aliases, since a short file with aliases
can expand to any size.
"""

import difflib
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError, brief


def _not_tiny(value: float) -> float:
    if value < 1e-12:
        raise ValueError("at least 1e-12")
    return value


def _is_energy(value: str) -> str:
    try:
        units.parse_energy(value, n_atoms=1)
    except ConfigError as error:
        raise ValueError(error.allowed) from error
    return value


Positive = Annotated[float, Field(gt=0.0, le=1e12), AfterValidator(_not_tiny)]
"""Positive, and such that its square, its inverse and products of three are numbers in float32 too."""
Energy = Annotated[str, AfterValidator(_is_energy)]
"""Positive, with its unit, such as "0.5 kcal/mol" or "1 meV/atom"; see `units.parse_energy`."""
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Location = tuple[int | str, ...]

DEEPEST: Final = 12
MOST: Final = 100_000
"""Largest number of values in settings; a list of magnetic moments has one for each atom."""


class Section(BaseModel):
    """Base of all sections: immutable; refuses unknown keys and numbers that are not finite.

    The outermost section may list former spellings, which are refused with the present one: `renamed` maps old dotted
    keys to new ones (the key of a section covers all keys in it); `respelt` maps old to new values of a dotted key.
    """

    renamed: ClassVar[dict[str, str]] = {}
    respelt: ClassVar[dict[str, dict[str, str]]] = {}

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileSection(Section):
    """A section with the key `file` that may be written as this path alone."""

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value


Settings = TypeVar("Settings", bound=Section)


def validate(model: type[Settings], raw: Any, *, source: Path | None = None) -> Settings:
    """Make settings from values read from YAML.

    Args:
      model: class of the outermost section.
      raw: the values that were read.
      source: the file they were read from; named in the error for a former spelling.

    Raises:
      ConfigError: for the first problem, naming the dotted key, the value and what is allowed.
    """
    if not isinstance(raw, dict):
        raise ConfigError("config", raw, "a mapping of keys to values")
    _check_size(raw)
    _refuse_former(model, raw, "" if source is None else f"; change it in {source}")
    try:
        settings = model.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, model, raw) from error
    _refuse_truth_as_number(raw, settings, ())
    return settings


def read_yaml(path: Path) -> Any:
    """Contents of a YAML file, not validated.

    Raises:
      ConfigError: if the file is missing or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("config", str(path), f"a text file in UTF-8 ({error})") from error
    except (OSError, ValueError) as error:
        raise ConfigError("config", str(path), f"the path of an existing YAML file ({error})") from error
    return parse_yaml(text, key="config", source=str(path))


def parse_yaml(text: str, *, key: str, source: str) -> Any:
    """Read a value from YAML text.

    Args:
      text: one YAML document.
      key: key or option that the error message names.
      source: the text itself or where it came from, for the error message.

    Raises:
      ConfigError: if the text is not YAML of the kind that this module describes.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(key, source, f"valid YAML ({error})") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(key, source, f"YAML with values that can be read ({error})") from error


def dump(settings: Section) -> str:
    """Settings as YAML with every default written out."""
    return yaml.dump(settings.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def dump_value(value: Any) -> str:
    """One value as YAML on a single line."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=2**31)
    return text.strip().removesuffix("...").strip()


_PLAIN: Final = (
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        re.compile(
            r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", re.compile(r"^(?:<<)$"), "<"),
)
"""Types of unquoted values: a pattern and possible first characters for each; everything else is text."""


class _Loader(yaml.SafeLoader):
    """YAML reader for plain data, with the rules of this module."""

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise ComposerError(None, None, "aliases are not allowed in settings", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse duplicate keys, merge keys and keys that are not text."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name is None or name in seen or key.tag == "tag:yaml.org,2002:merge":
                what = "is not text" if name is None else "is there twice" if name in seen else "is not allowed"
                raise ConstructorError(None, None, f"key {key.value!r:.99} {what}", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """YAML writer whose output `_Loader` reads back unchanged; quotes text that PyYAML would read as another type."""

    yaml_implicit_resolvers: ClassVar[dict] = {k: list(v) for k, v in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        """Write repeated values in full, without aliases."""
        return True


for _tag, _rule, _first in _PLAIN:
    _Loader.add_implicit_resolver(_tag, _rule, list(_first))
    _Dumper.add_implicit_resolver(_tag, _rule, list(_first))


def _dotted(location: Location) -> str:
    return ".".join(map(str, location)) or "config"


def _check_size(raw: dict) -> None:
    """Refuse keys that are not text, values that are not plain data, and settings that are too deep or too large."""
    waiting: list[tuple[Location, Any]] = [((), raw)]
    count = 0
    while waiting:
        location, value = waiting.pop()
        if isinstance(value, dict):
            for name in value:
                if not isinstance(name, str):
                    raise ConfigError(_dotted(location), name, "keys that are text")
        elif not isinstance(value, list | tuple):
            if not isinstance(value, bool | int | float | str | None):
                raise ConfigError(_dotted(location), value, "text, numbers, true, false, null, lists and mappings")
            continue
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
        count += len(items)
        if len(location) == DEEPEST or count > MOST:
            raise ConfigError(_dotted(location), value, f"at most {DEEPEST} levels and {MOST} values in all")
        waiting += [((*location, name), item) for name, item in items]


def _refuse_former(model: type[Section], raw: dict, where: str) -> None:
    """Refuse former names of keys and values with an error that says the present name."""
    for old, new in model.renamed.items():
        for inner, value in _found(raw, old):
            raise ConfigError(old + inner, value, f"{new}{inner}, to which this key was renamed{where}")
    for key, spellings in model.respelt.items():
        for inner, value in _found(raw, key):
            if not inner and isinstance(value, str) and value in spellings:
                raise ConfigError(key, value, spellings[value] + where)


def _found(raw: dict, key: str) -> Iterator[tuple[str, Any]]:
    """Find a dotted key: yields (suffix, value), where the suffix names the first key inside if it is a section."""
    value: Any = raw
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return
        value = value[part]
    if isinstance(value, dict) and value:
        inner, value = next(iter(value.items()))
        yield f".{inner}", value
    else:
        yield "", value


def _refuse_truth_as_number(raw: Any, made: Any, location: Location) -> None:
    """Refuse booleans given for numbers and numbers given for booleans, which pydantic converts silently."""
    if isinstance(raw, bool | int | float) and isinstance(made, bool | int | float):
        if isinstance(raw, bool) != isinstance(made, bool):
            allowed = "true or false" if isinstance(made, bool) else "a number"
            raise ConfigError(_dotted(location), raw, allowed)
    elif isinstance(raw, dict):
        for name, value in raw.items():
            inside = made.get(name) if isinstance(made, dict) else getattr(made, name, None)
            _refuse_truth_as_number(value, inside, (*location, name))
    elif isinstance(raw, list | tuple) and isinstance(made, list | tuple):
        for index, (value, inside) in enumerate(zip(raw, made, strict=False)):
            _refuse_truth_as_number(value, inside, (*location, index))


def _explain(error: ValidationError, model: type[Section], raw: Any) -> ConfigError:
    first = error.errors(include_url=False)[0]
    key = _dotted(tuple(_typed(first["loc"], raw, missing=first["type"] == "missing")))
    if first["type"] == "extra_forbidden":
        siblings = sorted({name for section in _sections(model, first["loc"][:-1]) for name in section.model_fields})
        close = difflib.get_close_matches(str(first["loc"][-1]), siblings, n=1)
        hint = f"unknown key (did you mean '{close[0]}'?); " if close else "unknown key; "
        return ConfigError(key, first["input"], hint + f"keys here: {', '.join(siblings)}")
    if first["type"] == "missing":
        return ConfigError(key, None, "this key is required")
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _unknown_kind(model, first["loc"], key, first.get("ctx", {})["discriminator"].strip("'"), first["input"])
    return ConfigError(key, first["input"], _allowed(first["type"], first["msg"]))


_ALLOWED: Final = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a section, that is, a mapping of keys to values",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_attributes_type": "a section, that is, a mapping of keys to values",
    "model_type": "a section, that is, a mapping of keys to values",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What is allowed, by pydantic's name of the mistake, where its own words are of Python and not of YAML."""


def _allowed(mistake: str, message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return _ALLOWED.get(mistake) or brief(text.removeprefix("Input should be ").removeprefix("allowed: "))


def _unknown_kind(model: type[Section], location: Location, key: str, name: str, value: Any) -> ConfigError:
    """The mistake of a section that is one of several kinds, and of none or an unknown one."""
    kinds = [str(section.model_fields[name].default) for section in _sections(model, location)]
    got = value.get(name) if isinstance(value, dict) else None
    return ConfigError(f"{key}.{name}", got, f"one of {', '.join(dict.fromkeys(kinds))}")


def _typed(location: Location, raw: Any, *, missing: bool) -> Iterator[str]:
    """Parts of a location that a user typed, without the union member names that pydantic inserts."""
    for i, part in enumerate(location):
        inside: dict = raw if isinstance(raw, dict) else dict(enumerate(raw)) if isinstance(raw, list | tuple) else {}
        if part in inside:
            raw = inside[part]
        elif not (missing and i == len(location) - 1):
            continue
        yield str(part)


def _sections(kind: Any, location: Location) -> list[type[BaseModel]]:
    """Section classes that are possible at a location below a type."""
    if get_origin(kind) in (Annotated, Union, types.UnionType):
        members = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
        # Pydantic inserts the value of a discriminator after the name of the field.
        named = [m for m in members if location and isinstance(m, type) and _discriminated(m, location[0])]
        rest = location[1:] if named else location
        return [section for member in named or members for section in _sections(member, rest)]
    if get_origin(kind) in (tuple, list, dict):
        return [section for member in get_args(kind)[-2:] for section in _sections(member, location[1:])]
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return []
    if not location:
        return [kind]
    field = kind.model_fields.get(str(location[0]))
    return [] if field is None else _sections(field.annotation, location[1:])


def _discriminated(kind: type, value: int | str) -> bool:
    fields = getattr(kind, "model_fields", {})
    return any(name in fields and fields[name].default == value for name in ("name", "kind"))
