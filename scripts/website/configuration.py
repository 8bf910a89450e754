"""The keys of a configuration as text, from the models that validate them.

Nothing about a key is written here but an example of those whose default is none. A key without a description, without
an example, or with an example that its model refuses is an error, and so is an example of a key that does not exist.
"""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from bayes_mlff.core.settings import dump_value
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

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

EXAMPLES: Final[dict[str, Any]] = {
    "arguments": {"method": "GFN2-xTB", "verbosity": 0},
    "basis": "def2-svp",
    "batch_size": 5,
    "calculator": "tblite.ase:TBLite",
    "calibration": {"a": 3.0, "b": 10.0, "decay": 1.0},
    "charge": 1,
    "cold_steps": 400,
    "confidence": 0.95,
    "dispersion": "d3bj",
    "draw_seed": 1,
    "ecp": "lanl2dz",
    "duration_ps": 10.0,
    "elements": ["Cu", "O"],
    "end_pressure_gpa": 1.0,
    "end_temperature_k": 800.0,
    "energy_unit": "kcal/mol",
    "energy_zero": "fitted",
    "ensemble": "runs/ethanol",
    "environment": {"VASP_PP_PATH": "/opt/vasp/potentials"},
    "equilibration": {"duration_ps": 1.0, "timestep_fs": 0.25},
    "file": "ethanol.xyz",
    "forces_unit": "kcal/mol/A",
    "format": "traj",
    "frames": 50,
    "frames_seed": 1,
    "head": "PBE",
    "hubbard": {"Mn": {"orbital": "d", "u_ev": 4.0}},
    "indices": [0, 8],
    "initial_magmoms": [0.0, 4.0, -4.0],
    "labels": {"file": "aimd.extxyz"},
    "magmoms": {"Mn": 4.0},
    "masses": {"H": 2.014},
    "memory_gib": 8.0,
    "multiplicity": 2,
    "of": [8],
    "output_file": "OUTCAR",
    "positions_unit": "bohr",
    "pressure_gpa": 0.0001,
    "pulay_virial_ev": [1.0, 1.0, 1.0, 0.0, 0.0, 0.0],
    "python": "/opt/dft/bin/python",
    "radius_angstrom": 3.0,
    "reads": ["info"],
    "retries": [{"nelm": 300}],
    "retry_exceptions": ["subprocess.CalledProcessError"],
    "scale": 0.2,
    "schedule": [{"duration_ps": 5.0, "temperature_k": 300.0, "end_temperature_k": 800.0}],
    "spin": 0,
    "start": {"ensemble": "runs/ethanol"},
    "step_size": 0.001,
    "stress_unit": "GPa",
    "structure": "ethanol.xyz",
    "supercell": [2, 2, 2],
    "temperature_k": 300.0,
    "temperatures_k": [300.0, 400.0, 500.0],
    "test": "test.npz",
    "test_frames": 100,
    "threshold": "0.5 kcal/mol",
    "threshold_temperature_k": 300.0,
    "train": "train.extxyz",
    "triggers": [{"kind": "force", "threshold": "3 kcal/mol/Å"}],
    "triggers[force].labels": ["OW", "CA"],
    "triggers[force].threshold": "3 kcal/mol/Å",
    "triggers[energy_per_atom].threshold": "1 meV/atom",
    "data": {"train": "train.extxyz"},
    "u_ev": 4.0,
    "unconverged_pattern": "SCF run NOT converged",
    "until_ps": 10.0,
    "validation": "validation.npz",
    "validation_frames": 20,
    "within": {"of": [8], "radius_angstrom": 3.0},
    "xyz_energy_key": "REF_energy",
    "xyz_forces_key": "REF_forces",
    "xyz_stress_key": "REF_stress",
}
"""Examples by the dotted key, or by its last name alone, of keys that have no default, or an empty one."""


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
    default = PydanticUndefined if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
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
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    if origin is Annotated:
        limits = [limit for each in inner[1:] for limit in _limits(getattr(each, "metadata", [each]))]
        return ", ".join([said_type(inner[0]), *limits])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(said_type(each) for each in inner))
    if origin is tuple:
        counted = "" if inner[-1] is Ellipsis else f" of {len(inner)}"
        return f"list{counted}: {said_type(inner[0])}"
    if origin is dict:
        return f"mapping of names to: {said_type(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return "any value"


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
