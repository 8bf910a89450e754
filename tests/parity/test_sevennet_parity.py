"""NequIP gives the numbers of sevenn 0.13.0: against frozen ones, and live where it is installed."""

import functools
import itertools

import numpy as np
import pytest

from bayes_mlff.core.errors import WeightsError
from bayes_mlff.models.catalogue import ENTRIES
from bayes_mlff.models.force_sigma import SIGMA_UNIT
from bayes_mlff.models.importers.sevennet_files import find, read
from bayes_mlff.models.importers.sevennet_history import current_names
from bayes_mlff.models.importers.sevennet_modalities import names_of
from bayes_mlff.models.importers.sevennet_weights import describe, from_sevennet
from bayes_mlff.models.known.entry import InPackage
from bayes_mlff.models.registry import Potential, load, restrict
from bayes_mlff.testing.model_battery import Evaluator, Model
from tests.parity import make_sevennet_reference as reference
from tests.support import frozen_numbers
from tests.support.parity import assert_same
from tests.support.sevennet_case import frozen_case

CASES = [(name, head) for name, settings in reference.cases().items() for head in reference.heads(settings)]
LABELS = list(reference.structures())
CHECKPOINT = 1e-7
"""Relative: a checkpoint's coupling coefficients are in single precision."""


frozen = functools.partial(frozen_numbers.frozen, reference.PATH)
frozen_structure = functools.partial(frozen_numbers.frozen_structure, reference.PATH)


@functools.cache
def frozen_potential(name, head=None):
    settings, state = frozen_case(name)
    index = names_of(settings).index(head) if head else 0
    state = current_names(state)
    description = describe(settings, state, index)
    return Potential(description.config, from_sevennet(state, description))


def frozen_numbers_of(name, head, label):
    return [frozen()[1][reference.place(name, head, label, quantity)] for quantity in reference.QUANTITIES]


def compiled(potential, atoms=20):
    config = potential.config
    return Evaluator(Model(potential.node_fn, potential.params, config.elements, config.r_max), atoms=atoms)


def numbers(potential, structure, out):
    """Energy, forces and virial from the output of an evaluator."""
    np.testing.assert_allclose(out.sigma, SIGMA_UNIT, rtol=1e-12)
    return out.energy + potential.isolated_energy(structure.numbers), out.forces, out.virial


def evaluate(potential, structures):
    """Energy, forces and virial of each structure; one compilation for all."""
    found = compiled(potential)(structures)
    return [numbers(potential, structure, out) for structure, out in zip(structures, found, strict=True)]


@pytest.mark.parametrize(("name", "head"), CASES)
def test_frozen_reference(name, head):
    results = evaluate(frozen_potential(name, head), [frozen_structure(label) for label in LABELS])
    for label, got in zip(LABELS, results, strict=True):
        assert_same(got, frozen_numbers_of(name, head, label))


@pytest.mark.optimized
def test_what_is_compiled_as_for_users_gives_the_same_numbers():
    test_frozen_reference("both parities", None)


@pytest.mark.parametrize("name", list(reference.cases()))
def test_frozen_numbers_are_those_of_sevennet(name):
    """The network need not be compiled again: what the frozen numbers say is compared with it above."""
    pytest.importorskip("sevenn")
    settings = reference.cases()[name]
    model = reference.build(settings)
    state, _ = reference.load_known(model, settings)
    for key, value in frozen_case(name)[1].items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)
    structures = reference.structures()
    for head, label in itertools.product(reference.heads(settings), ("CaO", "methanol", "slab")):
        got = reference.evaluate(model, settings["cutoff"], structures[label], head)
        assert_same(got, frozen_numbers_of(name, head, label))


@pytest.fixture
def single_precision_default():
    """sevenn builds its networks in PyTorch's default precision, which nequip sets to double for good."""
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", [name for name, row in ENTRIES.items() if isinstance(row.source, InPackage)])
def test_live_checkpoint(name, monkeypatch, tmp_path, single_precision_default):
    pytest.importorskip("sevenn")
    from sevenn.util import load_checkpoint

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = find(name, "model", ENTRIES[name].source)
    model, structure = reference.in_double(load_checkpoint(str(path)).build_model()), reference.structures()["CaO"]
    head, *others = names_of(read(path).settings) or (None,)
    potential = restrict(load(name, head=head, dtype=np.float64), (8, 20))
    evaluator = compiled(potential, atoms=2)
    expected = reference.evaluate(model, potential.config.r_max, structure, head)
    assert_same(numbers(potential, structure, evaluator([structure])[0]), expected, CHECKPOINT)
    for head in others:
        # The same network with other weights and shifts, which need no compilation.
        other = restrict(load(name, head=head, dtype=np.float64), (8, 20))
        assert other.config.energy_scales == potential.config.energy_scales and other.config.head == head
        evaluator.model = evaluator.model._replace(params=other.params)
        expected = reference.evaluate(model, potential.config.r_max, structure, head)
        assert_same(numbers(other, structure, evaluator([structure])[0]), expected, CHECKPOINT)


def test_fewer_elements_have_the_same_energies():
    name, label = "both parities", "CaO"  # a case with self-connections of each element
    smaller = restrict(frozen_potential(name), (20, 8))
    assert smaller.config.elements == (8, 20) and smaller.params["embedding"].shape[0] == 2
    (got,) = evaluate(smaller, [frozen_structure(label)])
    assert_same(got, frozen_numbers_of(name, None, label))


def test_flipped_coupling_goes_into_the_weights():
    settings, state = frozen_case("zero")
    turned = {k: -v if k.endswith(reference.FLIPPED) else v for k, v in state.items()}
    description = describe(settings, state)
    got, other = (from_sevennet(s, description)["interaction_1"]["convolution"]["radial"] for s in (state, turned))
    np.testing.assert_array_equal(got["dense_1"]["weight"], other["dense_1"]["weight"])
    ratio = got["dense_2"]["weight"] / other["dense_2"]["weight"]
    assert set(np.unique(ratio)) == {-1.0, 1.0}
    # Paths 1x1->1 of four channels and 2x1->2 of three.
    assert np.count_nonzero(ratio[0] < 0.0) == 7


W3J = "1_convolution.convolution._compiled_main_left_right._w3j_1_1_1"
EMBEDDING = "onehot_to_feature_x.linear.weight"
SCALE = "rescale_atomic_energy.scale"
ROWS, BIAS = "0_self_interaction_1.linear.weight", "0_self_interaction_1.linear.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if k != EMBEDDING}, f"missing {EMBEDDING}"),
        (lambda s: s | {"reduce.linear.weight": np.ones(3)}, "unused reduce.linear.weight"),
        (lambda s: s | {"0_self_interaction_1.linear.bias": np.ones(3)}, "unused .*linear.bias"),
        (lambda s: s | {EMBEDDING: np.ones(39)}, "has 39 numbers, expected 40"),
        (lambda s: s | {SCALE: s[SCALE] * 1.1}, f"{SCALE} is .* configured"),
        (lambda s: s | {"2_convolution.denominator": np.array([3.0])}, "2_convolution.denominator is"),
        (lambda s: s | {W3J: 2.0 * s[W3J]}, "no multiple|coupling"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message):
    settings, state = frozen_case("zero")
    description = describe(settings, state)
    with pytest.raises(WeightsError, match=message):
        from_sevennet(change(state), description)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_radial": "ssp"}, "act_radial is 'ssp'"),
        ({"use_modality": True}, "use_modality is True, but _modal_map is None"),
        ({"use_modality": True, "_modal_map": {"PBE": 1, "HSE": 2}}, "use_modality is True, but _modal_map is"),
        ({"readout_as_fcn": True}, "readout_as_fcn is True"),
        ({"interaction_type": "mace"}, "interaction_type is 'mace'"),
        ({"self_connection_type": ["linear", "nequip", "linear"]}, "self_connection_type is"),
        ({"weight_nn_hidden_neurons": [7, 8]}, r"weight_nn_hidden_neurons is \[7, 8\]"),
        ({"irreps_manual": ["5x0e", "6x0e", "6x0e+1x1e", "6x0e"]}, "irreps_manual is"),
        ({"cutoff_function": {"cutoff_function_name": "cosine"}}, "cutoff_function is"),
        ({"num_convolution_layer": 4}, "missing 3_convolution.denominator"),
        ({"num_convolution_layer": 10**12}, "num_convolution_layer is 1000000000000"),
    ],
)
def test_unsupported_models_are_refused(change, message):
    settings, state = frozen_case("zero")
    with pytest.raises(WeightsError, match=message):
        describe(settings | change, state)


def test_models_that_do_not_say_how_harmonics_are_normalised_are_refused():
    settings, state = frozen_case("zero")
    with pytest.raises(WeightsError, match="_normalize_sph is missing"):
        describe({k: v for k, v in settings.items() if k != "_normalize_sph"} | {"version": "0.10.0"}, state)


@pytest.mark.parametrize("key", ["use_flash_tp", "use_oeq", "cuequivariance_config"])
def test_faster_programs_for_the_same_network_change_nothing(key):
    settings, state = frozen_case("zero")
    assert describe(settings | {key: {"use": True}}, state) == describe(settings, state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {SCALE: np.ones(9)}, r"scale has shape \(9,\); allowed: 2 times one or 8 numbers"),
        (lambda s: s | {ROWS: s[ROWS][:-4]}, f"{ROWS} has .* too few for 2 modalities"),
        (lambda s: s | {BIAS: np.ones(3)}, f"{BIAS} has 3 numbers, expected 4"),
    ],
)
def test_states_that_do_not_have_the_modalities_are_refused(change, message):
    settings, state = frozen_case("modalities")
    with pytest.raises(WeightsError, match=message):
        describe(settings, change(state))


def test_frozen_file_is_small_and_says_where_it_comes_from():
    assert reference.PATH.stat().st_size < 300_000
    assert "sevenn 0.13.0" in frozen()[0]["provenance"]


def test_checkpoints_are_read_as_pytorch_reads_them():
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("sevenn")
    path = find("sevennet-0", "model", ENTRIES["sevennet-0"].source)
    expected = torch.load(path, map_location="cpu", weights_only=False)["model_state_dict"]
    got = read(path).state
    assert list(got) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(got[key], value.numpy(), err_msg=key, strict=True)
