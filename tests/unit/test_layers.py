"""What import-linter cannot say: the package root is a door for users only, and importing changes nothing."""

import ast
import importlib.util
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(importlib.util.find_spec("bayes_mlff").origin).parent
SUBPACKAGES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def imports_of_root(source: str) -> list[str]:
    """Names that `source` takes from the package root although they are not subpackages."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "bayes_mlff":
            found += [alias.name for alias in node.names if alias.name not in SUBPACKAGES]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name == "bayes_mlff"]
    return found


def test_root_imports_are_recognised():
    assert imports_of_root("import bayes_mlff\nfrom bayes_mlff import predictor, core") == [
        "bayes_mlff",
        "predictor",
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_the_package_root(path):
    assert imports_of_root(path.read_text(encoding="utf-8")) == []


def test_importing_the_library_leaves_jax_settings_alone():
    names = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if path.name != "__main__.py" and "engines" not in path.parts  # engines are optional
    ]
    code = (
        "import importlib, jax; before = dict(jax.config.values)\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "changed = [k for k, v in jax.config.values.items() if k in before and before[k] != v]\n"
        "assert not changed, changed"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
