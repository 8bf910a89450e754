"""NequIP gives the numbers of nequix 0.4.5: against frozen ones, and live where it is installed."""

import functools
import os
import pathlib

import jax
import numpy as np
import pytest

from bayes_mlff.models.importers.nequix_files import read_model
from bayes_mlff.models.registry import Potential, load, restrict, save
from tests.parity import make_nequix_reference as reference
from tests.support import frozen_numbers
from tests.support.parity import assert_same, evaluate

CASES = list(reference.headers())
LABELS = list(reference.STRUCTURES)
PUBLISHED = ("nequix-mp-1", "nequix-omat-1", "nequix-oam-1")


frozen = functools.partial(frozen_numbers.frozen, reference.PATH)
frozen_structure = functools.partial(frozen_numbers.frozen_structure, reference.PATH)


def frozen_content(name, end=b""):
    entry = frozen()[0]["cases"][name]
    return reference.content(entry["header"], reference.known_leaves(entry["shapes"]), end)


def frozen_potential(name, folder):
    path = folder / "model.nqx"
    path.write_bytes(frozen_content(name))
    return Potential(*read_model(path))


def frozen_results(name):
    return [[frozen()[1][f"{name}/{label}/{k}"] for k in ("energy", "forces", "virial")] for label in LABELS]


@pytest.mark.parametrize("name", CASES)
def test_frozen_reference(name, tmp_path):
    results = evaluate(frozen_potential(name, tmp_path), [frozen_structure(label) for label in LABELS])
    for got, expected in zip(results, frozen_results(name), strict=True):
        assert_same(got, expected)


@pytest.mark.optimized
def test_what_is_compiled_as_for_users_gives_the_same_numbers(tmp_path):
    test_frozen_reference("indexed", tmp_path)


@pytest.mark.parametrize("name", ["published", "indexed"])
def test_fewer_elements_and_a_file_of_this_package_have_the_same_energies(name, tmp_path):
    smaller = restrict(frozen_potential(name, tmp_path), (8, 1, 6))
    save(smaller, tmp_path / "model.safetensors", {})
    again = load(str(tmp_path / "model.safetensors"), dtype=np.float64)
    assert again.config == smaller.config and again.params["embedding"].shape == (3, 5)
    assert again.params["interaction_0"]["self_connection"]["weight"].shape[0] == 3
    results = evaluate(again, [frozen_structure(label) for label in LABELS])
    for got, expected in zip(results, frozen_results(name), strict=True):
        assert_same(got, expected)


@pytest.mark.parametrize("name", CASES)
def test_live_reference(name, tmp_path):
    """A file by nequix itself is read, and the networks give the same numbers."""
    pytest.importorskip("nequix")
    from nequix.model import save_model

    header = reference.headers()[name]
    model = reference.build(header)
    model = reference.filled(model, reference.known_leaves(reference.shapes_of(model)))
    save_model(tmp_path / "model.nqx", model, header)
    potential = Potential(*read_model(tmp_path / "model.nqx"))
    structures = list(reference.STRUCTURES.values())
    for structure, got in zip(structures, evaluate(potential, structures), strict=True):
        assert_same(got, reference.evaluate(model, header["atomic_numbers"], header["cutoff"], structure))


@pytest.mark.parametrize("name", PUBLISHED)
def test_live_published_weights(name):
    """`NEQUIX_MODELS` names a folder with the files."""
    pytest.importorskip("nequix")
    path = pathlib.Path(os.environ.get("NEQUIX_MODELS", ""), f"{name}.nqx")
    if not path.is_file():
        pytest.skip(f"no {path}")
    from nequix.model import load_model

    with jax.enable_x64(False):  # the file is in single precision
        model, header = load_model(path)
    model = reference.in_double(model)
    structures = list(reference.STRUCTURES.values())
    numbers = {int(z) for structure in structures for z in structure.numbers}
    potential = restrict(load(str(path), dtype=np.float64), tuple(numbers))
    for structure, got in zip(structures, evaluate(potential, structures), strict=True):
        expected = reference.evaluate(model, header["atomic_numbers"], header["cutoff"], structure)
        assert_same(got, expected)


def test_frozen_file_is_small_and_says_where_it_comes_from():
    assert reference.PATH.stat().st_size < 100_000
    assert "nequix 0.4.5" in frozen()[0]["provenance"]
