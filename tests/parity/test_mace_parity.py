"""MACE gives the numbers of mace-torch 0.3.16: against frozen ones, and live where it is installed."""

import functools

import jax
import numpy as np
import pydantic
import pytest
from ase import Atoms
from flax.traverse_util import flatten_dict

from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.models.config import MACEConfig
from bayes_mlff.models.importers import torch_pickle
from bayes_mlff.models.importers.mace_describe import describe
from bayes_mlff.models.importers.mace_files import read_model, read_state, state_of, write_models
from bayes_mlff.models.importers.mace_torch import from_mace, to_mace
from bayes_mlff.models.importers.torch_pickle import Inert
from bayes_mlff.models.mace_product import symmetrized
from bayes_mlff.models.registry import Potential, initialize, restrict
from tests.parity import make_mace_reference as reference
from tests.support import frozen_numbers
from tests.support.parity import assert_same, evaluate

CASES = list(reference.cases())
SMALL = [name for name in CASES if name != "medium"]
SLOW_MEDIUM = [pytest.param(name, marks=[pytest.mark.slow] if name == "medium" else []) for name in CASES]


frozen = functools.partial(frozen_numbers.frozen, reference.PATH)
frozen_structure = functools.partial(frozen_numbers.frozen_structure, reference.PATH)


@functools.cache
def frozen_case(name):
    entry = frozen()[0]["cases"][name]
    config = MACEConfig.model_validate(entry["config"])
    return config, reference.known_state({k: tuple(v) for k, v in entry["shapes"].items()}, config)


def fewer(config, elements=(1, 6, 8)):
    """The same architecture for some of its elements."""
    shifts = tuple(config.energy_shifts[config.elements.index(z)] for z in elements)
    return config.model_copy(update={"elements": elements, "energy_shifts": shifts})


@pytest.mark.parametrize("name", SLOW_MEDIUM)
def test_frozen_reference(name):
    config, state = frozen_case(name)
    config = fewer(config)
    potential = Potential(config, from_mace(state, config))
    labels = list(reference.STRUCTURES)
    for label, got in zip(labels, evaluate(potential, [frozen_structure(label) for label in labels]), strict=True):
        assert_same(got, [frozen()[1][f"{name}/{label}/{k}"] for k in ("energy", "forces", "virial")])


@pytest.mark.optimized
def test_what_is_compiled_as_for_users_gives_the_same_numbers():
    test_frozen_reference("residual")


def test_restricted_potential_has_identical_energies():
    config, state = frozen_case("plain")
    whole = Potential(config, from_mace(state, config))
    part = restrict(whole, (8, 6))
    assert part.config.elements == (6, 8) and part.config.energy_shifts == (2.3, 0.9)
    assert part.config.declared_elements == 3
    assert part.flat()[0].size < whole.flat()[0].size
    structures = [frozen_structure("slab")]
    assert_same(evaluate(part, structures)[0], evaluate(whole, structures)[0])
    direct = from_mace(state, part.config)
    jax.tree.map(np.testing.assert_array_equal, direct, part.params)


@pytest.mark.parametrize("name", SMALL)
def test_round_trip_is_exact(name):
    config, state = frozen_case(name)
    rng = np.random.default_rng(3)
    there = from_mace(state, config)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape), there)
    back = flatten_dict(from_mace(to_mace(params, config, state), config), sep="/")
    # Only PyTorch's linear layers and the normaliser are scaled, and so rounded.
    exact = 1e-14 if config.kind(0) == "nonlinear" else 0.0
    for key, value in flatten_dict(params, sep="/").items():
        if not key.startswith("sigma/"):
            np.testing.assert_allclose(back[key], value, rtol=0.0, atol=exact * 10.0, err_msg=key)
    again = to_mace(there, config, state)
    for key, value in state.items():
        np.testing.assert_allclose(again[key], value, rtol=exact, atol=0.0, err_msg=key)


def test_weights_of_other_elements_stay_as_they_are():
    config, state = frozen_case("residual")
    part = fewer(config, (1, 8))
    params = jax.tree.map(np.zeros_like, from_mace(state, part))
    after = to_mace(params, part, state)
    carbon = "products.1.symmetric_contractions.contractions.0.weights_max"
    np.testing.assert_array_equal(after[carbon][1], state[carbon][1])
    assert not after[carbon][[0, 2]].any()
    before, skip = (s["interactions.0.skip_tp.weight"].reshape(5, 3, 5) for s in (state, after))
    np.testing.assert_array_equal(skip[:, 1], before[:, 1])
    assert not skip[:, [0, 2]].any() and before.all()


def reduced(state):
    """The state in a smallest basis of products, mixed at random: as models with reduced couplings have it."""
    rng, changed = np.random.default_rng(5), dict(state)
    for key, u in state.items():
        prefix, _, order = key.rpartition("U_matrix_")
        if not prefix or not u.any():
            continue
        flat = symmetrized(u[None] if prefix.endswith(".0.") else u)
        left, size, _ = np.linalg.svd(flat, full_matrices=False)
        basis = left[:, size > 1e-8]
        basis = basis @ rng.normal(size=(basis.shape[1],) * 2)
        highest = f"{prefix}U_matrix_{int(order) + 1}" not in state
        top = max(int(k.rpartition("_")[2]) for k in state if k.startswith(f"{prefix}U_matrix_"))
        name = f"{prefix}weights_max" if highest else f"{prefix}weights.{top - 1 - int(order)}"
        changed[name] = np.einsum("qp,epc->eqc", np.linalg.lstsq(basis, flat)[0], state[name])
        changed[key] = basis.reshape(*u.shape[:-1], -1)
    return changed


def test_another_basis_of_products_is_mapped():
    config, state = frozen_case("residual")
    other = reduced(state)
    key = "products.0.symmetric_contractions.contractions.1.weights_max"
    assert other[key].shape[1] < state[key].shape[1]
    labels = list(reference.STRUCTURES)
    structures = [frozen_structure(label) for label in labels]
    params = from_mace(other, config)
    for label, got in zip(labels, evaluate(Potential(config, params), structures), strict=True):
        assert_same(got, [frozen()[1][f"residual/{label}/{k}"] for k in ("energy", "forces", "virial")])
    again = to_mace(params, config, other)
    for name, value in other.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


def test_couplings_that_miss_a_product_are_refused():
    config, state = frozen_case("residual")
    other = reduced(state)
    prefix = "products.0.symmetric_contractions.contractions.1."
    other[f"{prefix}U_matrix_3"] = other[f"{prefix}U_matrix_3"][..., :-1]
    other[f"{prefix}weights_max"] = other[f"{prefix}weights_max"][:, :-1]
    with pytest.raises(WeightsError, match="U_matrix_3: the couplings are no basis"):
        from_mace(other, config)


def _without(state, key):
    return {k: v for k, v in state.items() if k != key}


EMBEDDING = "node_embedding.linear.weight"
SCALE = "scale_shift.scale"
COUPLING = "products.1.symmetric_contractions.contractions.0.U_matrix_2"
HIGHEST = "products.1.symmetric_contractions.contractions.0.weights_max"
ISOLATED = "atomic_energies_fn.atomic_energies"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: _without(s, EMBEDDING), f"missing {EMBEDDING}"),
        (lambda s: _without(s, SCALE), f"missing {SCALE}"),
        (lambda s: _without(s, COUPLING), f"missing {COUPLING}"),
        (lambda s: _without(s, HIGHEST), f"missing {HIGHEST}"),
        (lambda s: _without(s, ISOLATED), f"{ISOLATED} is"),
        (lambda s: s | {"pair_repulsion_fn.a_exp": np.ones(1)}, "unused pair_repulsion_fn.a_exp"),
        (lambda s: s | {"products.0.linear.bias": np.ones(3)}, "unused products.0.linear.bias"),
        (lambda s: s | {"interactions.2.linear.weight": np.ones(3)}, "unused interactions.2.linear.weight"),
        (lambda s: s | {EMBEDDING: np.ones(16)}, "has 16 numbers, expected 15"),
        (lambda s: s | {HIGHEST: s[HIGHEST][:, 1:]}, "weights_max has 150 numbers, expected 165"),
        (lambda s: s | {COUPLING: np.ones((4, 4, 3))}, "U_matrix_2 has shape"),
        (lambda s: s | {SCALE: s[SCALE] * 1.1}, "scale_shift.scale is .* configured"),
        (lambda s: s | {ISOLATED: s[ISOLATED] * 1.1}, f"{ISOLATED} is .* configured"),
        (lambda s: s | {"atomic_numbers": np.array([1, 6, 7])}, r"atomic_numbers: got 3 elements without \[8\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message):
    config, state = frozen_case("residual")
    with pytest.raises(WeightsError, match=message):
        from_mace(change(state), config)
    with pytest.raises(WeightsError, match=message):
        to_mace(from_mace(state, config), config, change(state))


def test_unknown_elements_are_refused():
    config, state = frozen_case("scalars")
    with pytest.raises(ValueError, match=r"elements.*7"):
        restrict(Potential(config, from_mace(state, config)), (1, 7))


@pytest.mark.parametrize(("name", "path"), reference.MODEL_PATHS.items())
def test_model_files_are_read_without_pytorch(name, path):
    potential = read_model(path)
    config, state = frozen_case(name)
    assert potential.config == config
    expected = from_mace(state, config)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.0, atol=1e-12), potential.params, expected)


def test_files_that_are_no_models_are_refused(tmp_path):
    path = tmp_path / "a.model"
    with pytest.raises(WeightsError, match="no such file"):
        read_model(path)
    path.write_bytes(b"anything")
    with pytest.raises(WeightsError, match=r"a\.model: not a file of PyTorch"):
        read_model(path)
    with pytest.raises(WeightsError, match="not a file of PyTorch"):
        read_state(path, frozen_case("scalars")[0])


def test_sigma_head_of_medium_reads_the_invariants_of_all_interactions():
    shapes = jax.eval_shape(lambda: initialize(frozen_case("medium")[0], 0).params["sigma"])
    assert [shapes[f"dense_{i}"]["weight"].shape for i in range(3)] == [(2 * 128, 64), (64, 16), (16, 1)]


def test_frozen_file_is_small_and_says_where_it_comes_from():
    assert reference.PATH.stat().st_size < 200_000
    assert "mace-torch 0.3.16" in frozen()[0]["provenance"]


def renamed(module, name):
    """Make a module of a file one of another class."""
    module.__class__ = type(name, (Inert,), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: renamed(m, "PolarMACE"), "model is a PolarMACE; allowed: MACE or ScaleShiftMACE"),
        (lambda m: renamed(m, "MACELES"), "model is a MACELES"),
        (lambda m: renamed(m, "AtomicDipolesMACE"), "model is a AtomicDipolesMACE"),
        (lambda m: setattr(m, "use_so3", True), "use_so3 is True"),
        (lambda m: setattr(m, "joint_embedding", m.products), "model has joint_embedding"),
        (lambda m: renamed(m.radial_embedding.bessel_fn, "GaussianBasis"), "radial functions are a GaussianBasis"),
        (lambda m: renamed(m.interactions[0], "RealAgnosticAttResidualInteractionBlock"), "interactions are .*Att"),
        (lambda m: m.interactions._modules.update(x=m.products), "interactions are"),
        (lambda m: renamed(m.readouts[0], "LinearDipoleReadoutBlock"), "readout is a LinearDipoleReadoutBlock"),
        (lambda m: renamed(m.readouts[1], "LinearReadoutBlock"), "last readout is a LinearReadoutBlock"),
        (lambda m: setattr(m.readouts[1].non_linearity, "acts", []), r"NonLinearReadoutBlock with \[\]"),
        (lambda m: m.products[1].symmetric_contractions.contractions[0].weights._parameters.clear(), "correlations"),
        (lambda m: m.interactions[1].linear_up.__dict__.update(irreps_out=irreps(8, 1)), "edge irreps|edge_irreps"),
        (lambda m: m.products[1].linear.__dict__.update(irreps_out=irreps(8, 1)), "outputs that are not scalars"),
    ],
)
def test_models_of_another_form_are_refused(change, message):
    module = torch_pickle.read(reference.MODEL_PATH, inert=torch_pickle.INERT)
    change(module)
    with pytest.raises((WeightsError, pydantic.ValidationError), match=message):
        describe(module)


def irreps(width, degree):
    """Irreps of one degree, as a file has them."""
    irrep = Inert((degree, (-1) ** degree))
    return Inert((Inert((width, irrep)),))


@pytest.mark.parametrize("name", ["use_agnostic_product", "use_last_readout_only", "apply_cutoff"])
def test_options_of_a_file_are_read(name):
    module = torch_pickle.read(reference.MODEL_PATHS["nonlinear"], inert=torch_pickle.INERT)
    before = describe(module)
    setattr(module, name, not getattr(module, name))
    if name == "apply_cutoff":
        with pytest.raises(pydantic.ValidationError, match="energies would jump at r_max"):
            describe(module)
    else:
        field = name.removeprefix("use_")
        assert getattr(before, field) != getattr(describe(module), field)


# From here on mace-torch is needed.


@pytest.mark.parametrize("name", SLOW_MEDIUM)
def test_live_reference(name):
    pytest.importorskip("mace")
    settings = reference.cases()[name]
    model = reference.build(settings)
    state, _ = reference.load_known(model, settings)
    assert describe(model) == settings
    for key, value in reference.couplings(list(state), settings).items():
        np.testing.assert_allclose(state[key], value, rtol=0.0, atol=1e-12, err_msg=key)
    config = fewer(settings)
    potential = Potential(config, from_mace(state, config))
    structures = list(reference.STRUCTURES.values())
    for structure, got in zip(structures, evaluate(potential, structures), strict=True):
        assert_same(got, reference.evaluate(model, settings, structure))


def test_templates_need_trust(tmp_path):
    config, state = frozen_case("scalars")
    potential = Potential(config, from_mace(state, config))
    with pytest.raises(ConfigError, match="trust"):
        write_models(potential.config, [potential.params], reference.MODEL_PATH, [tmp_path / "a.model"])


def test_files_and_calculator_of_mace(tmp_path):
    pytest.importorskip("mace")
    import torch
    from mace.calculators import MACECalculator

    settings = reference.cases()["plain"]
    model = reference.build(settings)
    reference.load_known(model, settings)
    torch.save(model, tmp_path / "before.model")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    potential = Potential(*read_model(tmp_path / "before.model"))
    again = read_state(tmp_path / "state.pt", settings)
    jax.tree.map(np.testing.assert_array_equal, again.params, potential.params)

    part = restrict(potential, (6, 8))
    rng = np.random.default_rng(2)
    chains = [jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), part.params) for _ in range(2)]
    paths = [tmp_path / f"chain_{i}.model" for i in range(2)]
    write_models(part.config, chains, tmp_path / "before.model", paths, trust=True)
    structure = reference.STRUCTURES["triclinic"]._replace(numbers=np.array([6, 8, 6, 8, 8]))
    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=True)
    energies, forces = [], []
    for params, path in zip(chains, paths, strict=True):
        atoms.calc = MACECalculator(model_paths=[str(path)], device="cpu", default_dtype="float64")
        blank = jax.tree.map(np.zeros_like, params["sigma"])
        got = evaluate(Potential(part.config, dict(params) | {"sigma": blank}), [structure])[0]
        stress = atoms.get_stress(voigt=False) * atoms.get_volume()
        assert_same(got, (atoms.get_potential_energy(), atoms.get_forces(), stress))
        energies.append(got[0])
        forces.append(got[1])
    assert abs(energies[0] - energies[1]) > 1e-3
    atoms.calc = MACECalculator(model_paths=[str(path) for path in paths], device="cpu", default_dtype="float64")
    np.testing.assert_allclose(atoms.get_potential_energy(), np.mean(energies), rtol=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), np.mean(forces, axis=0), rtol=0.0, atol=1e-9)
    np.testing.assert_allclose(atoms.calc.results["energy_comm"], energies, rtol=1e-9)
    np.testing.assert_allclose(atoms.calc.results["energy_var"], np.var(energies), rtol=1e-6)
    assert state_of(model).keys() == state_of(torch.load(paths[0], weights_only=False)).keys()
    untouched = restrict(Potential(*read_model(paths[0])), (1,)).params
    jax.tree.map(
        np.testing.assert_array_equal,
        untouched["interaction_0"]["product"],
        restrict(potential, (1,)).params["interaction_0"]["product"],
    )
