"""What a run may be given to start from, and what is refused by name before anything is calculated."""

import ase
import ase.io
import jax
import numpy as np
import pytest
from ase.constraints import FixAtoms

from bayes_mlff.cli import app
from bayes_mlff.core import settings
from bayes_mlff.core.errors import ConfigError, DataError, RunDirectoryError
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import ElectronicState, Structure
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.engines.beside import Beside
from bayes_mlff.ensemble import saved
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.models import registry
from bayes_mlff.otf import agreement, carried, config, given
from bayes_mlff.otf.problem import prepare, stated
from bayes_mlff.otf.reference import same_geometry
from bayes_mlff.runs import start as starts
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.start import Start, contents
from bayes_mlff.testing.tiny import tiny_nequip

MODEL = registry.initialize(tiny_nequip((1, 8), energy_shifts=(-1.0, -3.0)), 0)
WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
UP = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
HASH, PYSCF = "sha256:0", {"name": "pyscf", "xc": "pbe"}


def molecule(positions=WATER, numbers=(8, 1, 1), **more):
    return Structure(np.array(numbers), np.array(positions), np.zeros((3, 3)), np.zeros(3, bool), **more)


def problem(start=None, structure=None, potential=MODEL, **more):
    raw = {
        "structure": "ethanol",
        "model": "model.safetensors",
        "engine": PYSCF,
        "start": start,
        "sampler": {"chains": 2},
    }
    return prepare(config.parse(raw | more), molecule() if structure is None else structure, potential)


def read(start, **more):
    """What a run of water is given, with every path absolute."""
    made = problem(start, **more)
    return given.read(made.config, made, HASH).given


def frames(count=3, **more):
    own, made = np.random.default_rng(1), []
    for _ in range(count):
        atoms = ase.Atoms("OHH", WATER + own.normal(0.0, 0.03, WATER.shape), **more)
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = float(own.normal()), own.normal(size=(3, 3))
        made.append(atoms)
    return made


def written(path, atoms):
    ase.io.write(path, atoms, format="extxyz")
    return {"labels": str(path)}


def run_directory(path, *, engine=PYSCF, structure=None, reason="initial", potential=MODEL, engine_hash=HASH):
    """The directory of a run with two labels and no steps."""
    structure = molecule() if structure is None else structure
    begun = config.parse({"structure": "ethanol", "model": "model.safetensors", "engine": engine})
    run = RunDirectory(path)
    start = Start(InitialStructure(structure), potential, engine_hash, "pyscf", path.parent)
    run.create(settings.dump(stated(begun, potential)), contents(start))
    for step, by in enumerate((0.0, 0.1)):
        moved = structure._replace(positions=structure.positions + by * UP)
        label = Label(-10.0 + by, np.full((3, 3), by), None)
        dataset.append(run.dataset, LabelRecord(moved, label, step, 0.0, reason, 0.0, None, engine_hash, 5.0))
    return path


def ensemble(path, potential=MODEL, count=3):
    flat = potential.flat()[0]
    samples = flat[None, :] + 0.01 * np.arange(count, dtype=np.float32)[:, None]
    offsets = np.arange(2.0 * count).reshape(count, 2)
    text = "model: model.safetensors\nhead: null\n"
    made = Ensemble(potential.config, samples, offsets, SigmaFactors(), 0.01, 0.01, text, np.array([[2, 1]]), {})
    saved.save(made, path)
    return made


def test_frames_are_given_labels_of_unknown_origin(tmp_path):
    atoms = frames()
    found = read(written(tmp_path / "own.xyz", [*atoms, atoms[1]]))
    assert [(r.step, r.reason, r.engine_hash, r.engine_seconds) for r in found.labels] == [
        (i, "given", "unknown", 0.0) for i in range(3)
    ]
    np.testing.assert_allclose([r.label.energy for r in found.labels], [a.info["REF_energy"] for a in atoms], rtol=1e-7)
    text = "; ".join(found.remarks)
    assert "4 frames of" in text and "1 labels of geometries that are there already" in text
    assert "one of them is calculated again" in text and "units that nothing states" in text


def test_units_of_the_section_are_used(tmp_path):
    begin = written(tmp_path / "own.xyz", frames())["labels"]
    plain = read({"labels": begin}).labels
    scaled = read({"labels": {"file": begin, "energy_unit": "kcal/mol", "forces_unit": "kcal/mol/A"}}).labels
    assert plain[0].label.energy == pytest.approx(KCAL_MOL_PER_EV * scaled[0].label.energy)
    np.testing.assert_allclose(plain[0].label.forces, KCAL_MOL_PER_EV * scaled[0].label.forces)


def altered(name):
    """Frames with one mistake."""
    made = frames()
    if name == "elements":
        made[1] = ase.Atoms("OHF", made[1].positions, info=made[1].info)
        made[1].arrays["REF_forces"] = np.ones((3, 3))
    if name == "order":
        made[2] = made[2][[1, 0, 2]]
    if name == "pbc":
        made[0].set_cell(np.eye(3) * 8.0)
        made[0].pbc = True
    if name == "twice":
        made[2].positions = made[0].positions
    if name == "charge":
        for atoms in made:
            atoms.info["charge"] = 1
    if name == "bohr":
        for atoms in made:
            atoms.positions /= 0.529177
    if name == "lacking":
        del made[1].info["REF_energy"]
    return made


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("elements", r"start.labels: .*frame 1 is of HFO; allowed: those of the structure, H2O, in its order"),
        ("order", r"start.labels: .*frame 2 is of the same atoms in another order"),
        ("pbc", r"start.labels: .*frame 0 has pbc \[True, True, True\]; allowed: \[False, False, False\]"),
        ("twice", r"start.labels: labels 0 and 2 are of the same geometry and .* eV apart"),
        ("charge", r"start.labels: .*state charge 1; allowed: 0, as the structure"),
        ("bohr", r"start.labels: .*start.labels.positions_unit: got A"),
        ("lacking", r"frame 1 lacks REF_energy"),
    ],
)
def test_frames_that_do_not_fit_are_named(tmp_path, name, said):
    structure = molecule(electronic=ElectronicState(charge=0)) if name == "charge" else None
    with pytest.raises(DataError, match=said):
        read(written(tmp_path / "bad.xyz", altered(name)), structure=structure)


def test_stress_is_needed_where_it_is_learnt(tmp_path):
    crystal = molecule()._replace(cell=np.eye(3) * 8.0, pbc=np.ones(3, bool))
    made = frames(cell=np.eye(3) * 8.0, pbc=True)
    engine = {"name": "ase", "calculator": "ase.calculators.emt:EMT", "stress": True}
    with pytest.raises(DataError, match=r"frame 0 lacks REF_stress; .*start.labels.xyz_stress_key"):
        read(written(tmp_path / "bad.xyz", made), structure=crystal, engine=engine)
    for atoms in made:
        atoms.info["REF_stress"] = np.eye(3) * 0.01
    found = read(written(tmp_path / "good.xyz", made), structure=crystal, engine=engine)
    np.testing.assert_allclose(found.labels[0].label.stress, np.eye(3) * 0.01)


def test_forces_of_held_atoms_that_are_zeros_are_refused(tmp_path):
    made = frames()
    for atoms in made:
        atoms.set_constraint(FixAtoms([0]))
        atoms.arrays["REF_forces"][0] = 0.0
    with pytest.raises(DataError, match=r"frame 0: forces of held atoms are written as zeros"):
        read(written(tmp_path / "held.xyz", made))


@pytest.mark.parametrize("way", ["labels", "file"])
def test_labels_of_a_run_by_the_same_reference_are_known(tmp_path, way):
    run = run_directory(tmp_path / "run")
    found = read({"labels": str(run if way == "labels" else run / "dataset.extxyz")})
    assert [(r.reason, r.engine_hash) for r in found.labels] == [("given", HASH)] * 2
    assert not found.doubted(HASH) and "2 of them by the reference of this run" in found.remarks[0]


def test_labels_of_a_run_with_another_version_or_state_are_of_unknown_origin(tmp_path):
    other = run_directory(tmp_path / "other", engine_hash="sha256:1")
    assert [len(each) for each in read({"labels": str(other)}).doubted(HASH)] == [2]
    moments = molecule(electronic=ElectronicState(moments=np.array([1.0, 0.0, 0.0])))
    magnetic = run_directory(tmp_path / "magnetic", structure=moments)
    found = read({"labels": str(magnetic)})
    assert [len(each) for each in found.doubted(HASH)] == [2] and "initial moments" in found.remarks[0]
    several = run_directory(tmp_path / "several", engine_hash="sha256:1")
    ensemble(several / "ensemble.safetensors")
    found = read({"ensemble": str(several)} | written(tmp_path / "own.xyz", frames()))
    assert [len(each) for each in found.doubted(HASH)] == [2, 3], "each origin is compared on its own"


def test_labels_of_another_level_or_charge_are_refused(tmp_path):
    run = run_directory(tmp_path / "b3lyp", engine={"name": "pyscf", "xc": "b3lyp"}, engine_hash="sha256:1")
    with pytest.raises(ConfigError, match=r"start.labels: .*labels of PBE, not of B3LYP as in that run"):
        read({"labels": str(run)})
    ion = run_directory(tmp_path / "ion", structure=molecule(electronic=ElectronicState(charge=1)))
    with pytest.raises(DataError, match=r"label 0 of .*ion is of charge 1; allowed: 0, as the structure"):
        read({"labels": str(ion)}, structure=molecule(electronic=ElectronicState(charge=0)))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({}, r"start: got \{\}; allowed: labels, ensemble or both"),
        ({"labels": "nothing.xyz"}, r"start.labels: got 'nothing.xyz'; allowed: the path of an existing file"),
        ({"labels": "."}, r"start.labels: got '.'; allowed: a file of labelled frames, or the directory of a run"),
        ({"ensemble": "nothing"}, r"ensemble: got 'nothing'; allowed: the path of"),
        ({"label": "x"}, r"start.label: .*did you mean 'labels'"),
        ({"labels": {"file": "x.xyz", "energy_unit": "cal"}}, r"start.labels.energy_unit: got 'cal'"),
    ],
)
def test_what_is_not_there_is_named(start, said):
    with pytest.raises(ConfigError, match=said):
        read(start)


def test_an_ensemble_alone_needs_the_labels_that_it_has_learnt(tmp_path):
    ensemble(tmp_path / "ensemble.safetensors")
    begin = {"ensemble": str(tmp_path / "ensemble.safetensors")}
    with pytest.raises(ConfigError, match=r"start.labels: got None; allowed: the labels that the ensemble of"):
        read(begin)
    found = read(begin | written(tmp_path / "own.xyz", frames()))
    text = "; ".join(found.remarks)
    assert len(found.labels) == 3 and "2 of the 3 samples" in text and "but not its weights" in text


def test_an_ensemble_of_another_model_is_refused(tmp_path):
    ensemble(tmp_path / "ensemble.safetensors")
    begin = {"ensemble": str(tmp_path / "ensemble.safetensors")}
    wider = registry.initialize(tiny_nequip((1, 8), hidden_irreps="4x0e", energy_shifts=(-1.0, -3.0)), 0)
    with pytest.raises(ConfigError, match=r"model: got .*the model from which .* began: hidden_irreps is"):
        read(begin, potential=wider)
    run = run_directory(tmp_path / "run")
    ensemble(run / "ensemble.safetensors")
    again = registry.initialize(MODEL.config, 1)
    with pytest.raises(ConfigError, match=r"model: got .*arrays of weights differ"):
        read({"ensemble": str(run)}, potential=again)
    assert len(read({"ensemble": str(run)}).labels) == 2


def test_the_model_is_that_of_the_ensemble_if_none_is_named(tmp_path):
    run = run_directory(tmp_path / "run")
    ensemble(run / "ensemble.safetensors")
    begin = {"structure": "ethanol", "start": {"ensemble": str(run)}}
    assert carried.with_model(config.parse(begin)).model == str(run / "start" / "model.safetensors")
    named = config.parse(begin | {"model": "nequip-md17-small"})
    assert carried.with_model(named) is named
    with pytest.raises(ConfigError, match=r"model: got None; allowed: the path of the model .* model.safetensors"):
        carried.with_model(config.parse(begin | {"start": {"ensemble": str(run / "ensemble.safetensors")}}))


def test_the_program_does_not_name_a_model_for_the_user(tmp_path):
    path = tmp_path / "config.yaml"
    for text, named in (("structure: ethanol\n", False), ("structure: ethanol\nmodel: mace-mp-0-small\n", True)):
        path.write_text(text)
        made = app._with_overrides(app._read(path), ["structure.index=0"])
        assert ("model" in made.model_fields_set) == named


@pytest.mark.parametrize(("chains", "samples"), [(2, [0, 2]), (3, [0, 1, 2]), (4, [0, 1, 2, 0])])
def test_samples_become_chains_with_their_energies(tmp_path, chains, samples):
    trained = ensemble(tmp_path / "ensemble.safetensors")
    made = problem(sampler={"chains": chains})
    found = np.asarray(carried.parameters(trained, made, 0.25, jax.random.key(0)))
    kept = found[:3] if chains == 4 else found
    np.testing.assert_array_equal(kept[:, :-1], np.asarray(trained.samples)[samples[: len(kept)]])
    # network + zero = reference + offset - isolated atoms, and the offsets of sample i are 2 i and 2 i + 1 eV
    expected = [-(2 * (2 * i) + (2 * i + 1)) + 0.25 for i in samples]
    np.testing.assert_allclose(found[:, -1], expected, rtol=1e-6)
    if chains == 4:
        spread = made.config.sampler.initial_spread * made.config.prior.scale
        assert np.std(found[3, :-1] - found[0, :-1]) == pytest.approx(spread, rel=0.3)


def test_what_was_given_is_kept_with_its_digest(tmp_path):
    made = ensemble(tmp_path / "ensemble.safetensors")
    begin = {"ensemble": str(tmp_path / "ensemble.safetensors")} | written(tmp_path / "own.xyz", frames())
    asked = problem(begin)
    found = given.read(asked.config, asked, HASH)
    start = Start(InitialStructure(molecule()), MODEL, HASH, "pyscf", tmp_path, Beside(), found.labels, found.ensemble)
    run = RunDirectory(tmp_path / "run")
    run.create(settings.dump(asked.config), contents(start))
    again = given.kept(starts.read(run.path), run.path)
    assert [(r.step, r.label.energy) for r in again.labels] == [(r.step, r.label.energy) for r in found.given.labels]
    assert again.ensemble is not None and saved.same(again.ensemble, made)
    file = run.path / "start" / "labels.extxyz"
    file.write_bytes(file.read_bytes().replace(b"REF_energy=", b"REF_energy=1", 1))
    with pytest.raises(RunDirectoryError, match=r"labels.extxyz: not what the run was started from"):
        starts.read(run.path)


def test_elements_that_a_run_has_not_are_left_out_of_samples(tmp_path):
    wide = registry.initialize(tiny_nequip((1, 6, 8), energy_shifts=(-1.0, -2.0, -3.0)), 0)
    own = registry.for_atoms(wide, np.array([8, 1, 1]))
    flat = wide.flat()[0]
    made = Ensemble(wide.config, flat[None, :], np.zeros((1, 3)), SigmaFactors(), 0.01, 0.01, "model: x\n", None, {})
    found = carried.parameters(made, problem(potential=own, sampler={"chains": 2}), 0.0, jax.random.key(0))
    np.testing.assert_array_equal(found[0, :-1], own.flat()[0])


def test_agreement_is_of_energies_forces_and_stress():
    label = Label(-5.0, np.full((3, 3), 0.5), np.eye(3) * 0.01)
    compare = {"energy_sigma_ev": 0.002, "stress_sigma_ev_a3": 3e-4}
    assert not agreement.differences(label, label, **compare)
    near = Label(-5.003, label.forces + 0.01, label.stress + 5e-4)
    assert not agreement.differences(label, near, **compare)
    far = Label(-5.1, -label.forces, -label.stress)
    found = agreement.differences(label, far, **compare)
    assert [text.split()[0] for text in found] == ["energy", "forces", "stress"]
    assert "-5.000000 eV" in found[0] and "-5.100000 eV" in found[0]
    assert agreement.differences(label._replace(energy=np.nan), label, **compare)


def test_geometries_are_the_same_up_to_lattice_translations():
    crystal = molecule()._replace(cell=np.diag([5.0, 6.0, 7.0]), pbc=np.array([True, True, False]))
    moved = crystal._replace(
        positions=crystal.positions + np.array([[5.0, -6.0, 0.0], [0.0, 0.0, 0.0], [10.0, 0.0, 0.0]])
    )
    assert same_geometry(crystal, moved)
    assert not same_geometry(crystal, crystal._replace(positions=crystal.positions + 7.0 * UP))
    assert not same_geometry(crystal, crystal._replace(positions=crystal.positions + 0.01))
