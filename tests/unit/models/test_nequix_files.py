"""Files of Nequix are read without running anything, and refused by name where they are damaged or of another form."""

import io
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.models import layers, registry
from bayes_mlff.models.importers import nequix_files
from bayes_mlff.models.importers.nequix_files import read, read_model
from tests.support.nequix_file import HEADER, claim, content, npy, random_leaves

LEAVES = random_leaves(HEADER)
SOUND = content(HEADER, LEAVES)
INDEXED = HEADER | {"index_weights": True, "layer_norm": False}


@pytest.fixture
def file(tmp_path):
    def write(data):
        (tmp_path / "a.nqx").write_bytes(data)
        return tmp_path / "a.nqx"

    return write


def test_a_file_is_a_nequip_with_the_energies_of_atoms_that_its_arrays_have(file):
    config, params = read_model(file(SOUND))
    assert config.architecture == "nequip" and config.elements == (1, 8)
    np.testing.assert_allclose(config.energy_shifts, LEAVES[0].astype(float) - 0.5, rtol=1e-12)
    assert config.energy_scales == (1.5, 1.5) and config.layer_norm and config.self_connection == "linear"
    assert "bessel_frequencies" not in params and not any(x.any() for x in params["sigma"]["dense_2"].values())
    loaded = registry.load(str(file(SOUND)))
    assert loaded.config == config


def test_matrices_of_each_element_have_their_place(file):
    leaves = random_leaves(INDEXED)
    _, params = read_model(file(content(INDEXED, leaves)))
    first = next(leaf for leaf in leaves if leaf.shape == (2, 2, 5))
    np.testing.assert_array_equal(params["interaction_0"]["self_connection"]["weight"], [first[s, s] for s in range(2)])
    second = next(leaf for leaf in leaves if leaf.shape in ((2, 3, 3), (2, 2, 2)))
    assert second.shape == (2, 2, 2)  # of the last block, which has no gates
    np.testing.assert_array_equal(params["interaction_1"]["self_connection"]["weight_0e"], second.swapaxes(0, 1))


@pytest.mark.parametrize("header", [HEADER, INDEXED])
def test_fewer_elements_and_the_last_layer_are_found(file, header):
    potential = registry.load(str(file(content(header, random_leaves(header)))))
    assert registry.per_element(potential) is potential
    assert layers.last_readout(potential).size == 2
    fewer = registry.restrict(potential, (8,))
    wanted = jax.eval_shape(lambda: registry.initialize(fewer.config, 0).params)
    assert jax.tree.map(jnp.shape, fewer.params) == jax.tree.map(jnp.shape, wanted)
    assert fewer.config.declared_elements == 2 and fewer.config.energy_shifts == potential.config.energy_shifts[1:]


@pytest.mark.parametrize("end", [b"\n", npy(1.5) + npy(3) + npy(True)])
def test_what_published_files_have_behind_their_arrays_is_left_out(file, end):
    found = read(file(SOUND + end))
    assert len(found.leaves) == len(LEAVES)
    for got, expected in zip(found.leaves, LEAVES, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_files_that_are_cut_off_are_refused_wherever_they_end(file):
    start = SOUND.index(b"\n") + 1
    for length in (*range(start, len(SOUND), 61), len(SOUND) - 1):
        with pytest.raises(WeightsError, match=r"a\.nqx: .*(cut off|is missing|claims .* arrays)"):
            read_model(file(SOUND[:length]))
    for length in (0, 10, start - 1):
        with pytest.raises(WeightsError, match=r"a\.nqx: not a file of Nequix"):
            read_model(file(SOUND[:length]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"text\nmore", "first line is no JSON"),
        (b"[1]\n", r"first line holds \[1\]"),
        (b"[" * 5000 + b"\n", "first line is no JSON"),
        (pickle.dumps({"a": 1}, 2), "not a file of Nequix"),
        (content({"model": "other"}, LEAVES), "missing atomic_numbers; missing avg_n_neighbors"),
        (content(HEADER | {"version": 3}, LEAVES), "version is 3"),
        (content(HEADER | {"architecture": "mace"}, LEAVES), "architecture is 'mace'"),
    ],
)
def test_other_files_are_refused(file, data, message):
    with pytest.raises(WeightsError, match=message):
        read_model(file(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_irreps": "2x0e + 3x1e"}, "hidden_irreps is '2x0e . 3x1e'; allowed: of 0e, 1o"),
        ({"hidden_irreps": "3x1o + 2x0e"}, "in this order"),
        ({"hidden_irreps": "2x0e + 3x1o + 1x2e"}, "up to lmax"),
        ({"hidden_irreps": "3x1o"}, "hidden_irreps is"),
        ({"hidden_irreps": "two"}, "hidden_irreps is 'two'"),
        ({"lmax": 9}, "lmax is 9"),
        ({"lmax": "1"}, "lmax is '1'"),
        ({"index_weights": 1}, "index_weights is 1"),
        ({"n_layers": 60_000}, "claims 60000 blocks"),
        ({"radial_mlp_layers": 60_000}, "60000 radial layers"),
        ({"radial_polynomial_p": 6.5}, "radial_polynomial_p is 6.5; allowed: whole"),
        ({"cutoff": float("nan")}, "cutoff is nan"),
        ({"avg_n_neighbors": 0.0}, "avg_n_neighbors is 0.0"),
        ({"atomic_numbers": [8, 1]}, "ascending"),
        ({"atomic_numbers": [1, 6, 8]}, r"energies of atoms have the shape \(2,\) for 3 elements"),
        ({"radial_mlp_size": 4}, r"array 1 \(interaction_0/convolution/radial/dense_0/weight\) has the shape \(2, 3\)"),
        ({"layer_norm": False}, "expected"),
        ({"n_layers": 3}, "expected"),
    ],
)
def test_headers_that_do_not_fit_are_refused(file, change, message):
    with pytest.raises(WeightsError, match=rf"a\.nqx: .*{message}"):
        read_model(file(content(HEADER | change, LEAVES)))


def fortran(array):
    stream = io.BytesIO()
    np.save(stream, np.asfortranarray(array))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (content(HEADER, [*LEAVES[:-1], np.full_like(LEAVES[-1], np.nan)]), "readout/dense_0/weight. is not finite"),
        (content(HEADER, [np.array([np.inf, 1.0]), *LEAVES[1:]]), "energy_shifts.0 is inf"),
        (content(HEADER, LEAVES[:-1]), "readout/dense_0/weight. is missing"),
        (content(HEADER, [*LEAVES, LEAVES[-1]]), "18 arrays, expected 17"),
        (content(HEADER, LEAVES, npy(1.0) + npy(np.ones(2))), "follows 1 numbers"),
        (content(HEADER, LEAVES, b"PK\x03\x04 a tail that is none"), "cannot be read"),
        (content(HEADER, [LEAVES[0], np.zeros((2, 3), int), *LEAVES[2:]]), "array 1 claims int64"),
        (content(HEADER, [LEAVES[0]], npy(np.array(["os.system"], object))), "array 1 claims object"),
        (content(HEADER, [LEAVES[0]], fortran(LEAVES[3])), "array 1 claims float32 of shape .* row by row"),
        (content(HEADER, [LEAVES[0]], npy(LEAVES[1]).replace(b"Y\x01", b"Y\x02")), r"version \(2, 0\)"),
        (content(HEADER, [LEAVES[0]], npy(LEAVES[1]).replace(b"(2, 3)", b"(9**9)")), "cannot be read"),
        (content(HEADER, [LEAVES[0]], claim((0, 99))), "claims float32"),
        (content(HEADER, [LEAVES[0]], claim((10**4000, 10**4000))), "where the file has 8 more bytes"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(file, data, message):
    with pytest.raises(WeightsError, match=rf"a\.nqx: .*{message}"):
        read_model(file(data))


def test_files_without_end_are_refused(file, monkeypatch):
    monkeypatch.setattr(nequix_files, "LARGEST", 100)
    with pytest.raises(WeightsError, match="longer than"):
        read(file(SOUND))
    monkeypatch.setattr(nequix_files, "LARGEST", 10**6)
    monkeypatch.setattr(nequix_files, "MOST_LEAVES", 10)
    with pytest.raises(WeightsError, match="more than 10 arrays"):
        read(file(SOUND))


def test_files_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"model: got .*\.safetensors or \.nqx or \.nequip\.zip or \.pth or \.model"):
        registry.load(str(tmp_path / "a.nqx"))
    with pytest.raises(WeightsError, match="cannot be read"):
        read(tmp_path / "a.nqx")
