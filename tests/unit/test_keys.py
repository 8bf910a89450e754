"""Keys of the two configurations: each is described, and errors name only what a user can type."""

import ast
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import bayes_mlff
from bayes_mlff.campaign.config import CampaignConfig
from bayes_mlff.finetune.config import FinetuneConfig
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.posterior.settings import LikelihoodSettings, ParallelChains, PriorSettings
from bayes_mlff.production.config import ProductionConfig

PACKAGE = Path(bayes_mlff.__file__).parent
LEARNING = (RunConfig, FinetuneConfig)
CONFIGURATIONS = (*LEARNING, ProductionConfig, CampaignConfig)
SHORTEST = 20
OF_CAMPAIGNS = r"^(run\.|\* with run: |walker \*: )"
"""Before the key of a run that all walkers of a campaign share, or one of them has."""
UNITS = {
    "_fs": "fs", "_ps": "ps", "_k": "K", "_gpa": "GPa", "_per_gpa": "1/GPa", "_per_fs": "1/fs", "_angstrom": "Å",
    "_gib": "GiB", "_mb": "MB", "_ev": "eV", "_s": "s", "_hartree": "hartree", "_kcal_mol_a3": "kcal/mol/Å³",
    "_kcal_mol_a": "kcal/mol/Å", "_kcal_mol_atom_ps": "kcal/mol per atom and ps",
}  # fmt: skip
ARGUMENTS = {"config", "check", "path", "output"}
"""Arguments of commands, which have no dashes."""
GIVEN = {"ensemble", "atoms", "elements", "lmp", "unixsocket"}
"""What a function was given, or the path of it."""


def sections(kind: Any) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in typing.get_args(kind):
        yield from sections(part)


def fields(model: type[BaseModel], before: tuple[str, ...] = ()) -> Iterator[tuple[str, str | None]]:
    """Dotted keys with their descriptions; a list's index and a mapping's key are stars."""
    for name, field in model.model_fields.items():
        key = (*before, name)
        yield ".".join(key), field.description
        inside = list(sections(field.annotation))
        is_list = any(typing.get_origin(a) in (tuple, dict) for a in (field.annotation,))
        for section in inside:
            yield from fields(section, (*key, "*") if is_list else key)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_key_is_described_with_its_unit(configuration):
    found = dict(fields(configuration))
    assert len(found) > 40
    for key, description in found.items():
        assert description and len(description) >= SHORTEST, f"{key}: {description!r}"
        assert description[0].isupper(), f"{key}: {description}"
        assert description.endswith("."), f"{key}: {description}"
        suffix = max((s for s in UNITS if key.endswith(s)), key=len, default=None)
        if suffix is not None:
            assert re.search(rf"(?<!\w){re.escape(UNITS[suffix])}(?!\w)", description), f"{key}: {description}"


@pytest.mark.parametrize(
    ("name", "common"), [("sampler", ParallelChains), ("prior", PriorSettings), ("likelihood", LikelihoodSettings)]
)
def test_both_configurations_have_one_section_of_each(name, common):
    for configuration in LEARNING:
        kinds = list(sections(configuration.model_fields[name].annotation))
        (used,) = [kind for kind in kinds if issubclass(kind, common)]
        for key, field in common.model_fields.items():
            assert used.model_fields[key].default == field.default, key


def options() -> set[str]:
    """Long options of the programs, from their source: typer makes them of the names of parameters."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "typer.Option":
                found |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
            if (
                isinstance(node, ast.arg)
                and node.annotation is not None
                and "typer.Option" in ast.unparse(node.annotation)
            ):
                found.add("--" + node.arg.replace("_", "-"))
    return found


def literals(node: ast.expr) -> list[str]:
    """The texts that an expression may be, with a star for each part that is not known."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return literals(node.body) + literals(node.orelse)
    if isinstance(node, ast.JoinedStr):
        return ["".join(v.value if isinstance(v, ast.Constant) else "*" for v in node.values)]
    return []


def named() -> Iterator[tuple[str, str]]:
    """Keys that errors name, with where: first arguments of ConfigError, and what is assigned or handed on as `key`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            texts: list[str] = []
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ConfigError") and node.args:
                texts = literals(node.args[0])
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "key":
                texts = [text for text in literals(node.value) if "." in text]
            elif isinstance(node, ast.keyword) and node.arg == "key":
                texts = literals(node.value)
            for text in texts:
                yield text, f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"


def test_errors_name_what_can_be_typed():
    keys = {key for configuration in CONFIGURATIONS for key, _ in fields(configuration)}
    known = keys | options() | ARGUMENTS | GIVEN
    found = list(named())
    assert len(found) > 60
    for text, where in found:
        plain = re.sub(OF_CAMPAIGNS, "", text)
        pattern = re.compile("(?:" + re.escape(plain).replace(r"\*", ".+") + ")")
        typed = any(pattern.fullmatch(key) for key in known)
        assert typed or text.strip("*.") == "" or inside_a_mapping(text, keys), f"{where}: {text}"


def inside_a_mapping(text: str, keys: set[str]) -> bool:
    """Whether a key is that of a mapping whose keys are free, such as dynamics.masses.H and engine.arguments.spin."""
    free = ("dynamics.masses.", "engine.arguments.", "*.arguments.")
    return text.startswith(free) and (text.startswith("*") or text.rsplit(".", 1)[0] in keys)
