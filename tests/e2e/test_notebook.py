"""The notebooks run from top to bottom, against the code as it is."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support import spared

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
COMPILING = ("a_new_engine", "own_labels")
"""Notebooks that compile for much longer than they compute, so that XLA optimises nothing in them."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path):
    pytest.importorskip("tblite")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("from tests.support import light_imports, one_context"))
    spare = {} if path.stem in COMPILING else spared.environment_to_compute()
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute(env=os.environ | spare | {"PYTHONPATH": str(REPOSITORY)})


def test_there_is_a_notebook():
    assert NOTEBOOKS
