"""Packages of nequip 0.19.1 give its numbers: against frozen ones, and live where it is installed."""

import functools

import numpy as np
import pytest

from bayes_mlff.models import registry
from tests.parity import make_nequip_package_reference as reference
from tests.parity.make_reference import evaluate as evaluate_in_torch
from tests.support import frozen_numbers
from tests.support.parity import assert_same, evaluate

CASES = list(reference.cases())
LABELS = list(reference.STRUCTURES)

frozen = functools.partial(frozen_numbers.frozen, reference.PATH)
frozen_structure = functools.partial(frozen_numbers.frozen_structure, reference.PATH)


def loaded(path):
    """The potential for H, C and O, which is all of it or a part."""
    return registry.restrict(registry.load(str(path), dtype=np.float64), (8, 1, 6))


@pytest.mark.parametrize("name", CASES)
def test_frozen_reference(name, tmp_path):
    path = tmp_path / "model.nequip.zip"
    path.write_bytes(frozen()[1][f"{name}/package"].tobytes())
    results = evaluate(loaded(path), [frozen_structure(label) for label in LABELS])
    for label, got in zip(LABELS, results, strict=True):
        assert_same(got, [frozen()[1][f"{name}/{label}/{k}"] for k in ("energy", "forces", "virial")])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "by elements" else [pytest.mark.slow]) for name in CASES]
)
def test_live_reference(name, tmp_path):
    pytest.importorskip("nequip")
    arguments = reference.cases()[name]
    model = reference.build(arguments)
    path = tmp_path / "model.nequip.zip"
    reference.package(model, path, arguments["type_names"])
    structures = list(reference.STRUCTURES.values())
    for structure, got in zip(structures, evaluate(loaded(path), structures), strict=True):
        assert_same(got, evaluate_in_torch(model, arguments["type_names"], arguments["r_max"], structure))


def test_frozen_file_says_where_it_comes_from():
    assert "nequip 0.19.1" in frozen()[0]["provenance"]
