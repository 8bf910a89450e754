"""Names of the package: all are there, and none hides a sub-package."""

import ast
import importlib
import json
import pkgutil
from pathlib import Path

import pytest

import bayes_mlff
import bayes_mlff.finetune

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def test_no_name_hides_a_sub_package():
    modules = {module.name for module in pkgutil.iter_modules(bayes_mlff.__path__)}
    assert {"sghmc", "runs", "api", "finetune"} <= modules
    assert not modules & set(bayes_mlff.__all__)
    transform = importlib.import_module("bayes_mlff.sghmc.transform")
    assert bayes_mlff.sghmc.transform is transform and bayes_mlff.sghmc_transform is transform.sghmc


def test_every_name_is_there_and_the_one_that_tools_see():
    for package in (bayes_mlff, bayes_mlff.finetune):
        seen = {}
        for node in ast.walk(ast.parse(Path(package.__file__ or "").read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("bayes_mlff."):
                seen |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        del seen["lazily"]
        assert set(package.__all__) == set(seen)
        for name, (module, there) in seen.items():
            assert getattr(package, name) is getattr(importlib.import_module(str(module)), there), name
    assert set(bayes_mlff.__all__) <= set(dir(bayes_mlff))


def test_what_is_not_there_is_said():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bayes_mlff.nothing


def test_notebooks_use_public_names_only():
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "bayes_mlff":
                assert node.module == "bayes_mlff", f"{path.name}: {node.module}"
                assert {alias.name for alias in node.names} <= set(bayes_mlff.__all__)
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("bayes_mlff.") for alias in node.names), path.name
