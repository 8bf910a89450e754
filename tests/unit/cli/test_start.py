"""The program answers at once: what a command does not need is not imported."""

import json
import subprocess
import sys

import pytest

from tests.support import kept_runs

HEAVY = ("jax", "ase", "matplotlib", "jax_md", "flax", "e3nn_jax", "vesin", "torch", "pyscf", "scipy.stats")

CHILD = """
import contextlib, io, json, sys
sys.argv = ["bayes-mlff", *json.loads(sys.argv[1])]
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
    from bayes_mlff.cli.app import main
    main()
print(json.dumps([said.getvalue(), sorted(sys.modules)]))
"""


def call(*arguments):
    """What a command prints, and which of the heavy packages it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(arguments)], capture_output=True, text=True, check=True, timeout=120
    )
    said, modules = json.loads(done.stdout.splitlines()[-1])
    return said, [name for name in HEAVY if name in modules]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return kept_runs.write(tmp_path_factory.mktemp("kept") / "run")


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--help"], "finetune"),
        (["--version"], "."),
        (["finetune", "--help"], "--train"),
        (["status", "RUN"], "312 K"),
        (["status", "--json", "RUN"], '"temperature_k": 312.3'),
    ],
)
def test_nothing_heavy_is_imported(run, arguments, phrase):
    said, heavy = call(*(str(run) if argument == "RUN" else argument for argument in arguments))
    assert phrase in said
    assert heavy == []


def test_a_configuration_is_written_and_described_without_jax(tmp_path):
    for arguments, phrase in ((["init", str(tmp_path / "new.yaml")], "wrote"), (["schema"], "threshold")):
        said, heavy = call(*arguments)
        assert phrase in said and set(heavy) <= {"ase"}, heavy


def test_the_package_itself_imports_nothing():
    done = "import sys, bayes_mlff, bayes_mlff.finetune; print([n for n in sys.argv[1:] if n in sys.modules])"
    said = subprocess.run([sys.executable, "-c", done, "numpy", *HEAVY], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
