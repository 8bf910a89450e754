"""A run directory holds what the run was started from, and notices when that is not what it is told to be."""

import json

import jax
import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError, RunDirectoryError
from bayes_mlff.data.structure import ElectronicState, Structure
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.models import registry
from bayes_mlff.otf import beginning, config, problem, systems
from bayes_mlff.runs import start
from bayes_mlff.runs.same_start import model_differences, structure_differences
from bayes_mlff.runs.start import Start
from tests.support.small_run import MODEL

ETHANOL = systems.structure("ethanol", base=systems._folder())
ELECTRONS = ElectronicState(
    charge=-1,
    multiplicity=2,
    moments=np.linspace(0.0, 1.0, 9),
    charges=np.linspace(-0.1, 0.3, 9),
    tags=np.arange(9),
    info={"name": "Å", "n": 3, "x": 0.1 + 0.2, "yes": True},
)
FULL = InitialStructure(
    ETHANOL._replace(
        positions=ETHANOL.positions / 3.0,
        masses=np.full(9, 2.014),
        fixed=np.arange(27).reshape(9, 3) % 4 == 0,
        electronic=ELECTRONS,
    ),
    velocities=np.random.default_rng(0).normal(size=(9, 3)),
    remarks=("one", "two"),
)


def model(seed: int = 0):
    return registry.initialize(MODEL, seed)


def begun(folder, initial=FULL, potential=None):
    """The folder of a run with what it was started from."""
    made = Start(initial, model() if potential is None else potential, "sha256:1", "an engine", folder)
    (folder / start.FOLDER).mkdir(exist_ok=True)
    for name, content in start.contents(made).items():
        (folder / start.FOLDER / name).write_bytes(content)
    return made


def same(left, right) -> bool:
    """To the last bit, types included."""
    a, b = jax.tree.leaves(left), jax.tree.leaves(right)
    return jax.tree.structure(left) == jax.tree.structure(right) and all(
        type(x) is type(y) and np.asarray(x).dtype == np.asarray(y).dtype
        and np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(a, b, strict=True)
    )  # fmt: skip


@pytest.mark.parametrize("initial", [FULL, InitialStructure(ETHANOL)])
def test_everything_about_the_structure_comes_back_to_the_last_bit(tmp_path, initial):
    begun(tmp_path, initial)
    assert same(start.read(tmp_path).initial, initial)
    assert (tmp_path / "start" / "structure.extxyz").read_text().startswith("9\n")


@pytest.mark.parametrize("name", ["nequip-md17-small", "mace-perovskite-small"])
def test_a_model_comes_back_to_the_last_bit(tmp_path, name):
    structure = systems.structure("ethanol" if "nequip" in name else "lamno3", base=systems._folder())
    used = registry.for_atoms(registry.load(name), structure.numbers)
    begun(tmp_path, InitialStructure(structure), used)
    found = start.read(tmp_path).potential
    assert found.config == used.config
    np.testing.assert_array_equal(found.flat()[0], used.flat()[0])
    assert model_differences(registry.for_atoms(registry.load(name), structure.numbers), found) == ()


@pytest.mark.parametrize("name", [start.STRUCTURE, start.MODEL, start.IDENTITY])
@pytest.mark.parametrize("how", ["changed", "missing", "cut"])
def test_a_damaged_file_is_refused_by_name(tmp_path, name, how):
    begun(tmp_path)
    path = tmp_path / start.FOLDER / name
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif name == start.IDENTITY:
        path.write_text(json.dumps(json.loads(content) | {"structure": "0" * 64}))
        name = start.STRUCTURE
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(RunDirectoryError, match=name):
        start.read(tmp_path)


def test_a_run_of_an_earlier_version_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"earlier version.*finish it with that version, or start another run"):
        start.read(tmp_path)


def changed(**fields) -> InitialStructure:
    return FULL._replace(structure=FULL.structure._replace(**fields))


def moved(atom: int, by: float) -> np.ndarray:
    positions = FULL.structure.positions.copy()
    positions[atom, 1] += by
    return positions


def swapped(array: np.ndarray, i: int, j: int) -> np.ndarray:
    order = np.arange(len(array))
    order[[i, j]] = j, i
    return array[order]


H = FULL.structure.numbers.tolist().index(1)
O = FULL.structure.numbers.tolist().index(8)
SYMBOLS = {1: "H", 6: "C", 8: "O"}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (FULL, ""),
        (changed(positions=moved(H, 1e-8)), ""),
        (changed(positions=moved(H, 0.13)), f"atom {H} (H): position differs by 0.13 Å"),
        (changed(positions=FULL.structure.positions + 1.0), "9 atoms differ in their position in all"),
        (
            changed(numbers=FULL.structure.numbers[::-1], positions=FULL.structure.positions[::-1]),
            "rows moved: the same atoms in another order",
        ),
        (
            changed(positions=swapped(FULL.structure.positions, *np.flatnonzero(FULL.structure.numbers == 1)[:2])),
            "rows moved",
        ),
        (changed(numbers=np.where(np.arange(9) == H, 9, FULL.structure.numbers)), f"atom {H} is F instead of H"),
        (InitialStructure(Structure(*(x[:8] for x in ETHANOL[:2]), *ETHANOL[2:4])), "8 atoms instead of 9"),
        (changed(cell=np.diag([9.0, 0.0, 0.0])), "cell: vector a is (9 0 0) instead of"),
        (changed(pbc=np.ones(3, bool)), "periodic along a and b and c instead of no direction"),
        (changed(masses=None), f"atom {O} (O): mass 15.999 instead of 2.014 amu"),
        (changed(fixed=None), "held along no axis instead of x"),
        (FULL._replace(velocities=None), "velocity: none instead of one for each atom"),
        (FULL._replace(velocities=1.01 * FULL.velocities), "velocity differs by"),
        (changed(electronic=ELECTRONS._replace(charge=None)), "charge not stated instead of -1"),
        (changed(electronic=ELECTRONS._replace(multiplicity=4)), "multiplicity 4 instead of 2"),
        (changed(electronic=ELECTRONS._replace(moments=None)), "initial magnetic moment: none"),
        (changed(electronic=ELECTRONS._replace(charges=np.zeros(9))), "initial charge 0 instead of -0.1 e"),
        (changed(electronic=ELECTRONS._replace(tags=np.zeros(9, int))), "tag 0 instead of 1"),
        (changed(electronic=ELECTRONS._replace(info={**ELECTRONS.info, "n": 4})), "n, is 4 instead of 3"),
    ],
)
def test_what_differs_is_named(now, said):
    found = "; ".join(structure_differences(now, FULL))
    assert said in found
    assert bool(found) == bool(said)


def test_another_model_is_named_by_weights_or_architecture():
    assert model_differences(model(), model()) == ()
    (weights,) = model_differences(model(1), model())
    assert "arrays of weights differ, by up to" in weights
    other = registry.initialize(MODEL.model_copy(update={"r_max": 4.5}), 0)
    assert "r_max is 4.5 instead of" in "; ".join(model_differences(other, model()))


@pytest.fixture
def settings(tmp_path):
    """A configuration whose files are there, and the run that it has begun."""
    (tmp_path / "run").mkdir()
    registry.save(model(), tmp_path / "model.safetensors", {})
    file = systems._folder() / "ethanol.xyz"
    (tmp_path / "mine.xyz").write_bytes(file.read_bytes())
    parsed = config.parse({"structure": str(tmp_path / "mine.xyz"), "model": str(tmp_path / "model.safetensors")})
    begun(tmp_path / "run", systems.initial_structure(parsed.structure, base=tmp_path))
    return parsed


def test_the_same_run_is_found_wherever_its_files_are_now(tmp_path, settings):
    assert beginning.same_run(settings, settings, tmp_path / "run").remarks == ()
    (tmp_path / "mine.xyz").rename(tmp_path / "moved.xyz")
    elsewhere = settings.structure.model_copy(update={"file": str(tmp_path / "moved.xyz")})
    again = settings.model_copy(update={"structure": elsewhere})
    assert beginning.same_run(again, settings, tmp_path / "run").remarks == ()
    (tmp_path / "moved.xyz").unlink()
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "run").rename(tmp_path / "there")
    found = beginning.same_run(again, settings, tmp_path / "there")
    assert [remark.split()[0] for remark in found.remarks] == ["structure", "model"]
    assert all("is gone: the copy in the run directory is used" in remark for remark in found.remarks)
    np.testing.assert_array_equal(found.start.initial.structure.positions, ETHANOL.positions)


def test_another_structure_model_or_setting_is_refused_by_what_differs(tmp_path, settings):
    lines = (tmp_path / "mine.xyz").read_text().splitlines(keepends=True)
    for other, said in (
        ([*lines[:2], *lines[:1:-1]], "rows moved"),
        ([*lines[:2], lines[2].replace(lines[2].split()[1], "9.9"), *lines[3:]], "position differs by"),
    ):
        (tmp_path / "mine.xyz").write_text("".join(other))
        with pytest.raises(RunDirectoryError, match=rf"mine\.xyz is now: .*{said}"):
            beginning.same_run(settings, settings, tmp_path / "run")
    (tmp_path / "mine.xyz").write_text("".join(lines))
    registry.save(model(1), tmp_path / "model.safetensors", {})
    with pytest.raises(RunDirectoryError, match=r"another model than .*arrays of weights differ"):
        beginning.same_run(settings, settings, tmp_path / "run")
    longer = settings.model_copy(update={"seed": 3})
    with pytest.raises(RunDirectoryError, match=r"another configuration .seed is 3, there 0"):
        beginning.same_run(longer, settings, tmp_path / "run")


def test_what_the_architecture_decides_is_compared_as_it_was(tmp_path, settings):
    """A run keeps the numbers; who leaves them to the architecture means what it says now."""
    kept = problem.stated(settings, model())
    assert kept.prior.scale == 0.2 and settings.prior.scale is None
    assert beginning.same_run(settings, kept, tmp_path / "run").remarks == ()
    other = kept.model_copy(update={"prior": kept.prior.model_copy(update={"scale": 0.4})})
    with pytest.raises(RunDirectoryError, match=r"prior\.scale is 0\.2, there 0\.4"):
        beginning.same_run(settings, other, tmp_path / "run")


def test_another_reference_is_refused(tmp_path):
    made = begun(tmp_path)
    beginning.check_engine(made, "sha256:1", "an engine")
    with pytest.raises(ConfigError, match=r"an engine.*settings or its version have changed"):
        beginning.check_engine(made, "sha256:2", "another engine")
