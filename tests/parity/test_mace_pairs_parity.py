"""Functions of pairs of atoms and heads of MACE give the numbers of mace-torch 0.3.16, and so do files written back."""

import functools

import jax
import numpy as np
import pytest
from ase import Atoms

from bayes_mlff.core.errors import ConfigError, DataError, WeightsError
from bayes_mlff.models import registry
from bayes_mlff.models.config import MACEConfig
from bayes_mlff.models.importers import mace_heads
from bayes_mlff.models.importers.mace_files import describe, read_model, state_of, write_models
from bayes_mlff.models.importers.mace_torch import from_mace, to_mace
from bayes_mlff.models.potential import Potential
from tests.parity import make_mace_pairs_reference as reference
from tests.parity import make_mace_reference as single
from tests.support import frozen_numbers
from tests.support.parity import assert_same, evaluate

CASES = [(name, head) for name, case in reference.cases().items() for head in range(len(case.heads))]
OBSERVABLES = ("energy", "forces", "virial")
LABELS = list(reference.STRUCTURES)

frozen = functools.partial(frozen_numbers.frozen, reference.PATH)
frozen_structure = functools.partial(frozen_numbers.frozen_structure, reference.PATH)


@functools.cache
def frozen_case(name):
    """Names of the heads, their configurations, and the state with all of them."""
    entry, arrays = frozen()[0]["cases"][name], frozen()[1]
    settings = tuple(MACEConfig.model_validate(each) for each in entry["settings"])
    shapes = {k: tuple(v) for k, v in entry["shapes"].items()}
    prefix = f"{name}/state/"
    stored = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    return tuple(entry["heads"]), settings, single.known_state(shapes, settings[0]) | stored


def potential_of(name, head):
    heads, settings, state = frozen_case(name)
    return Potential(settings[head], from_mace(mace_heads.one_head(state, len(heads), head), settings[head]))


@pytest.mark.parametrize(("name", "head"), CASES)
def test_frozen_reference(name, head):
    results = evaluate(potential_of(name, head), [frozen_structure(label) for label in LABELS])
    for label, got in zip(LABELS, results, strict=True):
        assert_same(got, [frozen()[1][f"{name}/{head}/{label}/{k}"] for k in OBSERVABLES])


def test_short_distances_are_right_in_single_precision():
    whole = potential_of("heads", 1)
    half = Potential(whole.config, jax.tree.map(lambda x: np.asarray(x, np.float32), whole.params))
    dimers = [reference.dimer(distance).positions for distance in reference.SHORT]
    vectors = np.concatenate([positions[[1, 0]] - positions for positions in dimers])[:, None].astype(np.float32)
    neighbors, mask = np.array([[1], [0], [3], [2], [5], [4]]), np.ones((6, 1), bool)
    out = jax.jit(half.node_fn)(half.params, vectors, np.array([2, 0] * 3), neighbors, mask)
    assert out.energy.dtype == np.float32
    energies = np.asarray(out.energy, float).reshape(3, 2).sum(axis=1) + whole.isolated_energy(np.array([8, 1]))
    expected = [frozen()[1][f"heads/1/dimer-{distance}/energy"] for distance in reference.SHORT]
    np.testing.assert_allclose(energies, expected, rtol=1e-5)


@pytest.mark.parametrize(("name", "head"), CASES)
def test_only_the_chosen_head_changes_on_the_way_back(name, head):
    _, settings, state = frozen_case(name)
    rng = np.random.default_rng(4)
    one = mace_heads.one_head(state, 2, head)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape), from_mace(one, settings[head]))
    after = mace_heads.put_back(to_mace(params, settings[head], one), state, 2, head)
    assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in state.items()}
    again = from_mace(mace_heads.one_head(after, 2, head), settings[head])
    blank = {"sigma": jax.tree.map(np.zeros_like, params["sigma"])}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), again, dict(params) | blank)
    before, other = (mace_heads.one_head(each, 2, 1 - head) for each in (state, after))
    kept = [
        name for name in state if name.startswith("readouts.") or name in ("scale_shift.scale", mace_heads.ENERGIES)
    ]
    assert len(kept) > 4
    for key in kept:
        np.testing.assert_array_equal(other[key], before[key], err_msg=key)
    # What joins one head to the other is multiplied by zeros, and stays too.
    width = settings[head].readout_width
    mixed = (s["readouts.1.linear_2.weight"].reshape(2, width, 2) for s in (state, after))
    np.testing.assert_array_equal(*(each[head, :, 1 - head] for each in mixed))


@pytest.mark.parametrize("head", ["pbe", "r2scan"])
def test_a_head_is_chosen_by_name(head):
    potential = registry.load(str(reference.MODEL_PATH), head=head, dtype=np.float64)
    heads, settings, _ = frozen_case("heads")
    assert potential.config == settings[heads.index(head)] and potential.config.head == head
    expected = potential_of("heads", heads.index(head)).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.0, atol=1e-12), potential.params, expected)


@pytest.mark.parametrize("head", [None, "omat", "PBE", "Default"])
def test_without_a_head_of_that_name_those_that_there_are_are_listed(head):
    with pytest.raises(ConfigError, match=r"^head: got .*mace_heads\.model: pbe, r2scan$"):
        registry.load(str(reference.MODEL_PATH), head=head)


def test_the_head_of_a_model_that_has_one_may_be_named():
    assert registry.load(str(single.MODEL_PATH), head="Default").config.head is None
    with pytest.raises(ConfigError, match=r"head: got 'pbe'; .*: Default$"):
        registry.load(str(single.MODEL_PATH), head="pbe")


def test_a_head_goes_with_the_saved_weights(tmp_path):
    path = tmp_path / "one.safetensors"
    registry.save(registry.load(str(reference.MODEL_PATH), head="r2scan"), path, {})
    assert registry.load(str(path)).config.head == registry.load(str(path), head="r2scan").config.head == "r2scan"
    with pytest.raises(ConfigError, match=r"head: got 'pbe'; allowed: r2scan, which .*one\.safetensors holds"):
        registry.load(str(path), head="pbe")


def test_a_model_without_an_element_of_the_structure_is_refused():
    potential = registry.load(str(reference.MODEL_PATH), head="pbe")
    with pytest.raises(DataError, match=r"Si|14"):
        registry.for_atoms(potential, np.array([1, 14, 8]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair_repulsion_fn.a_exp": np.array(0.3)}, r"pair_repulsion_fn\.a_exp is .* configured"),
        ({"pair_repulsion_fn.c": np.array([0.1, 0.2, 0.3, 0.4])}, r"pair_repulsion_fn\.c is"),
        ({"pair_repulsion_fn.p": np.array(5)}, r"pair_repulsion_fn\.p is"),
        ({"pair_repulsion_fn.covalent_radii": np.ones(119)}, r"pair_repulsion_fn\.covalent_radii differ from those"),
        ({"radial_embedding.distance_transform.covalent_radii": np.ones(119)}, "covalent_radii differ from those"),
        ({"radial_embedding.distance_transform.a": np.array(1.0)}, r"distance_transform\.a is"),
        ({"radial_embedding.distance_transform.b": np.array(1.0)}, r"unused radial_embedding\.distance_transform\.b"),
        ({"scale_shift.scale": np.array([0.7])}, r"scale_shift\.scale has shape \(1,\); .*each of the 2 heads"),
        ({"readouts.0.linear.weight": np.ones(7)}, r"readouts\.0\.linear\.weight has 7 numbers"),
    ],
)
def test_states_that_do_not_fit_are_refused(change, message):
    _, settings, state = frozen_case("heads")
    with pytest.raises(WeightsError, match=message):
        from_mace(mace_heads.one_head(state | change, 2, 0), settings[0])


def test_entries_of_earlier_versions_without_effect_are_accepted():
    _, settings, state = frozen_case("soft")
    unused = {f"pair_repulsion_fn.{k}": np.array(4.0) for k in ("r_max", "cutoff.r_max", "cutoff.p")}
    found = from_mace(mace_heads.one_head(state | unused, 2, 0), settings[0])
    jax.tree.map(np.testing.assert_array_equal, found, potential_of("soft", 0).params)


def test_frozen_file_is_small_and_says_where_it_comes_from():
    assert reference.PATH.stat().st_size < 200_000
    assert "mace-torch 0.3.16" in frozen()[0]["provenance"]


# From here on mace-torch is needed.


@pytest.mark.parametrize(("name", "head"), CASES)
def test_live_reference(name, head):
    pytest.importorskip("mace")
    case = reference.cases()[name]
    model = reference.build(case)
    state, _ = reference.load_known(model, case)
    assert describe(model, head) == case.settings[head]
    config = case.settings[head]
    potential = Potential(config, from_mace(mace_heads.one_head(state, len(case.heads), head), config))
    structures = list(reference.STRUCTURES.values())
    for structure, got in zip(structures, evaluate(potential, structures), strict=True):
        assert_same(got, reference.evaluate(model, config, structure, head))


@pytest.fixture
def double():
    """mace-torch raises atomic numbers to a power in the default precision, also in a calculator of float64."""
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("name", "head"), CASES)
def test_files_and_calculator_of_mace(tmp_path, name, head):
    pytest.importorskip("mace")
    import torch
    from mace.calculators import MACECalculator

    case = reference.cases()[name]
    model = reference.build(case)
    reference.load_known(model, case)
    torch.save(model, tmp_path / "before.model")
    named = case.heads[head] if len(case.heads) > 1 else None
    before = Potential(*read_model(tmp_path / "before.model", named))
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), before.params)
    params = dict(params) | {"sigma": jax.tree.map(np.zeros_like, params["sigma"])}
    write_models(before.config, [params], tmp_path / "before.model", [tmp_path / "after.model"], trust=True)
    structures = [reference.STRUCTURES[label] for label in ("triclinic", "dimer-0.3")]
    for structure, got in zip(structures, evaluate(Potential(before.config, params), structures), strict=True):
        atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
        atoms.calc = MACECalculator(
            model_paths=[str(tmp_path / "after.model")], device="cpu", default_dtype="float64", head=case.heads[head]
        )
        expected = [atoms.get_potential_energy(), atoms.get_forces(), got[2]]
        if structure.pbc.all():
            expected[2] = atoms.get_stress(voigt=False) * atoms.get_volume()
        assert_same(got, expected)
    after = state_of(torch.load(tmp_path / "after.model", weights_only=False))
    if named is not None:
        others, same = (mace_heads.one_head(each, 2, 1 - head) for each in (after, state_of(model)))
        for key in (key for key in others if key.startswith("readouts.")):
            np.testing.assert_array_equal(others[key], same[key], err_msg=key)


def _older_soft(model):
    del model.radial_embedding.distance_transform.alpha


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m, "pair_repulsion_fn", m.products), "pair_repulsion_fn is a ModuleList"),
        (lambda m: delattr(m, "pair_repulsion"), "without the other"),
        (lambda m: setattr(m.radial_embedding, "distance_transform", m.products), "distance_transform is a ModuleList"),
        (_older_soft, "distance_transform is a SoftTransform of unknown form"),
        (lambda m: setattr(m, "joint_embedding", m.products), "model has joint_embedding"),
        (lambda m: setattr(m, "__class__", type("AtomicDipolesMACE", (type(m),), {})), "is a AtomicDipolesMACE"),
    ],
)
def test_models_of_another_form_are_refused(change, message):
    pytest.importorskip("mace")
    model = reference.build(reference.cases()["soft"])
    change(model)
    with pytest.raises(WeightsError, match=message):
        describe(model)
