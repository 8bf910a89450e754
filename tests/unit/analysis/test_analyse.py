"""The command and its findings, on trajectories whose answers are planted."""

import csv
import json

import ase.io
import numpy as np
import pytest
from ase import Atom, Atoms
from ase.build import bulk, molecule
from typer.testing import CliRunner

import bayes_mlff
from bayes_mlff.analysis import torsions
from bayes_mlff.analysis.analyse import ANALYSES, analyse
from bayes_mlff.analysis.options import Options
from bayes_mlff.cli.app import app
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import from_ase
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.growing_files import Frame
from tests.support.manganite import shaken


def ethanol_run(path, *, labels=(100.0, 990.0, 1000.0, 1010.0, 2990.0), seed=0):
    """Ethanol whose hydroxyl group turns at 1, 2 and 3 ps, with labels; 400 frames every 10 fs."""
    rng = np.random.default_rng(seed)
    path.mkdir()
    still = molecule("CH3CH2OH")
    chain = torsions.hydroxyl(from_ase(still))
    plan = np.repeat([180.0, 60.0, -60.0, 180.0], 100) + 8.0 * rng.normal(size=400)
    made = []
    for angle in plan:
        atoms = still.copy()
        atoms.set_dihedral(*chain, angle, indices=[chain[3]])
        atoms.positions += 0.02 * rng.normal(size=(9, 3))
        made.append(atoms)
    run, first = RunDirectory(path), from_ase(still)
    series = (
        Frame(20 * i, 10.0 * i, a.positions, np.zeros((3, 3)), None, rng.normal(size=(9, 3)))
        for i, a in enumerate(made)
    )
    run.append_frames(first.numbers, first.pbc, series)
    for i, time in enumerate((0.0, *labels)):
        record = LabelRecord(first, Label(-1.0, np.zeros((9, 3))), i, time, "uncertain" if i else "initial", 0.0, None,
                             "abc", 1.0)  # fmt: skip
        dataset.append(path / "dataset.extxyz", record)
    return path


def read(folder, name):
    content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.reader((folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()))
    assert len({len(row) for row in rows}) == 1
    return content["results"], rows, content


def test_a_run_needs_no_options(tmp_path):
    path = ethanol_run(tmp_path / "run")
    result = CliRunner().invoke(app, ["analyse", str(path)])
    assert result.exit_code == 0, result.exception
    for said in ("3: anti to gauche+ 1", "first 0.399 ps left out as equilibration", "C-C-O-H of ethanol", "Left out",
                 f"{path}/analysis/rdf.png", "density of the distances", "Hann window", "WARNING"):  # fmt: skip
        assert said in result.output, said
    names = {each.name for each in (path / "analysis").iterdir()}
    done = {"rdf", "vdos", "bonds", "dihedral", "labels"}
    assert names == {f"{name}.{suffix}" for name in done for suffix in ("png", "csv", "json")}
    results, rows, _ = read(path / "analysis", "dihedral")
    assert results["transition_times_fs"] == [[1000.0, 2000.0, 3000.0]]
    assert results["populations"]["anti"] == pytest.approx(0.5, abs=0.01)
    assert len(rows) == 401
    results, rows, content = read(path / "analysis", "labels")
    assert (results["inside"], results["outside"]) == (4, 1)
    assert results["share_of_time"] == pytest.approx(300.0 / 3990.0)
    assert results["p_value"] < 1e-3
    assert content["trajectories"][0]["labels"] == 6
    assert [row[2] for row in rows[1:]] == ["False", "True", "True", "True", "True"]
    results, _, _ = read(path / "analysis", "vdos")
    assert results["autocorrelation"]["value"][0] == 1.0
    results, _, _ = read(path / "analysis", "bonds")
    assert results["pairs"]["O-H"]["mean_bonds_by_rank_angstrom"][0] == pytest.approx(0.97, abs=0.02)


def test_replicas_add_up_and_may_differ_in_length_where_that_is_said(tmp_path):
    one, two = ethanol_run(tmp_path / "one"), ethanol_run(tmp_path / "two", seed=1)
    (three,) = [analyse([one, two], what=["dihedral"], output=tmp_path / "both")]
    assert len(three[0].finding.results["transition_times_fs"]) == 2
    assert three[0].finding.results["rate_per_ps"] == pytest.approx(6 / 7.98)
    text = (two / "trajectory.extxyz").read_text().splitlines(keepends=True)
    (two / "trajectory.extxyz").write_text("".join(text[: 300 * 11]))
    done = {each.name: each for each in analyse([one, two], output=tmp_path / "short")}
    assert {name for name, each in done.items() if each.finding} == {"rdf", "dihedral", "labels"}
    for name in ("rdf", "dihedral"):
        assert any("may differ in length" in text for text in done[name].finding.assumed)
    for name in ("msd", "vdos", "bonds"):
        assert "two: 300 frames" in done[name].reason and "one: 400" in done[name].reason
        with pytest.raises(DataError, match="two: 300 frames"):
            analyse([one, two], what=[name], output=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def walkers(path, frames, seed, cell=12.0):
    """Six hydrogen atoms that walk among 27 that are at rest, wrapped; D = 0.01 Å²/fs = 1e-3 cm²/s, every 5 fs."""
    rng = np.random.default_rng(seed)
    rest = np.indices((3, 3, 3)).reshape(3, -1).T * cell / 3
    paths = np.cumsum(np.sqrt(2 * 0.01 * 5.0) * rng.normal(size=(frames, 6, 3)), axis=0)
    made = [Atoms("Au27H6", np.concatenate([rest, p]), cell=cell * np.eye(3), pbc=True) for p in paths]
    for i, atoms in enumerate(made):
        atoms.info["time_fs"] = 5.0 * i
        atoms.wrap()
    ase.io.write(path, made)
    return path


def test_a_known_diffusion_coefficient_comes_back_in_cm2_per_s(tmp_path):
    paths = [walkers(tmp_path / f"{seed}.extxyz", 400, seed) for seed in range(3)]
    options = Options(species=("H",))
    (done,) = analyse(paths, what=["msd"], options=options)
    assert done.files[0].parent == tmp_path / "0-analysis"
    results, rows, _ = read(tmp_path / "0-analysis", "msd")
    found = results["elements"]["H"]
    low, high = found["interval_95_cm2_s"]
    assert low < 1e-3 < high and found["diffusion_cm2_s"] == pytest.approx(1e-3, rel=0.15)
    assert found["standard_error_between_replicas_cm2_s"] < 1e-4
    assert rows[0] == ["lag_fs", "H_angstrom2"]
    assert float(rows[101][1]) == pytest.approx(6 * 0.01 * 500.0, rel=0.3)


def test_a_crystal_with_hydrogen_and_a_moving_cell(tmp_path):
    made = shaken(40, size=0.02)
    for i, atoms in enumerate(made):
        atoms.append(Atom("H", atoms.positions[8 if i < 20 else 12] + np.array([0.3, 0.3, 0.8])))
        atoms.info["time_fs"] = 5.0 * i
    ase.io.write(tmp_path / "a.extxyz", made)
    done = {each.name: each for each in analyse([tmp_path / "a.extxyz"], output=tmp_path / "out")}
    assert {name for name, each in done.items() if each.finding} == {"rdf", "msd", "bonds", "hops", "lattice"}
    results, rows, _ = read(tmp_path / "out", "hops")
    assert [(h["from"], h["to"], h["time_fs"]) for h in results["hops"][0]] == [(8, 12, 100.0)]
    assert rows[1][:2] == ["0", "100"] and results["mobile"] == "H" and results["hosts"] == ["O"]
    results, _, _ = read(tmp_path / "out", "lattice")
    assert results["a_angstrom"]["mean"] == pytest.approx(5.54, abs=0.05)
    assert any("the cell moves" in text for text in done["msd"].finding.assumed)
    assert done["bonds"].finding.results["pairs"]["Mn-O"]["ranks"] == ["short", "middle", "long"]


def test_a_molecule_diffuses_only_as_a_whole(tmp_path):
    path = ethanol_run(tmp_path / "run")
    with pytest.raises(DataError, match="does not leave its own centre of mass; allowed: --keep-drift"):
        analyse([path], what=["msd"])
    (done,) = analyse([path], what=["msd"], options=Options(keep_drift=True))
    assert "motion of the centre of mass left in as told" in done.finding.assumed


def copper(path, count=20, time=True):
    rng, made = np.random.default_rng(0), []
    for i in range(count):
        atoms = bulk("Cu", cubic=True).repeat(2)
        atoms.positions += 0.05 * rng.normal(size=(32, 3))
        atoms.info |= {"time_fs": 5.0 * i} if time else {}
        made.append(atoms)
    ase.io.write(path, made)
    return path


def test_a_file_without_times_gives_what_needs_none(tmp_path):
    done = {each.name: each for each in analyse([copper(tmp_path / "cu.extxyz", time=False)])}
    assert {name for name, each in done.items() if each.finding} == {"rdf"}
    assert all("--interval-fs" in done[name].reason for name in ("msd", "bonds"))
    peak = done["rdf"].finding.results["pairs"]["Cu-Cu"]
    assert peak["first_peak_angstrom"] == pytest.approx(3.61 / np.sqrt(2), abs=0.08)
    done = {each.name: each for each in analyse([tmp_path / "cu.extxyz"], interval_fs=5.0)}
    assert done["bonds"].finding.results["pairs"]["Cu-Cu"]["coordination"] == pytest.approx(12.0)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["--what", "rdf,spectrum"], ConfigError, "--what: got 'spectrum'; allowed: rdf, msd, vdos"),
        (["--what", "vdos"], DataError, r"cu\.extxyz: got no velocities"),
        (["--what", "hops", "--mobile", "Li"], ConfigError, "--mobile: got 'Li'; allowed: an element of .*: Cu"),
        (["--mobile", "Li"], ConfigError, "--mobile: got 'Li'"),
        (["--what", "hops"], DataError, r"no hydrogen in a crystal; allowed: --mobile"),
        (["--what", "hops", "--mobile", "Cu"], ConfigError, "--hosts"),
        (["--what", "msd", "--species", "Zz"], ConfigError, "--species: got 'Zz'"),
        (["--what", "rdf", "--pairs", "Cu-O"], ConfigError, "--pairs: got 'O'"),
        (["--pairs", "CuO"], ConfigError, "--pairs: got 'CuO'; allowed: two elements with a hyphen"),
        (["--what", "dihedral", "--dihedral", "0,1,2,77"], ConfigError, r"--dihedral: .*77.*0 to 31"),
        (["--dihedral", "0,1,2"], ConfigError, "--dihedral: got '0,1,2'; allowed: four atoms"),
        (["--what", "dihedral"], DataError, "got no ethanol molecule; allowed: --dihedral"),
        (["--what", "labels"], DataError, "got no labels"),
        (["--what", "lattice"], DataError, "the cell is constant"),
        (["--what", "bonds", "--cutoff", "1.0"], DataError, "got no bonds"),
        (["--what", "rdf", "--r-max", "0.5"], ConfigError, "--r-max: got 0.5"),
        (["--r-max", "-1"], ConfigError, "--r-max: got -1.0; allowed: a positive number"),
        (["--skip-ps", "5"], ConfigError, "--skip-ps: got 5.0; allowed: less than the 0.095 ps"),
        (["--skip-ps", "-1"], ConfigError, "--skip-ps"),
        (["--core-deg", "90"], ConfigError, "--core-deg"),
        (["--events-fs", "1,x"], ConfigError, "--events-fs"),
        (["--interval-fs", "5"], ConfigError, r"--interval-fs: got 5.0; allowed: nothing"),
    ],
)
def test_bad_input_is_refused_by_name(tmp_path, arguments, kind, message):
    path = copper(tmp_path / "cu.extxyz")
    result = CliRunner().invoke(app, ["analyse", str(path), *arguments])
    assert isinstance(result.exception, kind), result.exception
    with pytest.raises(kind, match=message):
        raise result.exception


def test_the_spectrum_needs_enough_frames_and_says_what_frames_resolve(tmp_path):
    made = [molecule("H2O") for _ in range(40)]
    for i, atoms in enumerate(made):
        phase = 2.0 * np.pi * i / 8.0
        atoms.set_velocities(
            np.stack([np.cos(phase) * np.eye(3)[0] + np.sin(phase) * np.eye(3)[1]] * 3) * [[1], [2], [-3]]
        )
        atoms.info["time_fs"] = 1.0 * i
    ase.io.write(tmp_path / "a.extxyz", made)
    (done,) = analyse([tmp_path / "a.extxyz"], what=["vdos"], options=Options(skip_ps=0.0, resolution=1.0))
    found = done.finding.results
    assert found["highest_peak_per_cm"] == pytest.approx(33356.4 / 8.0, rel=1e-4)
    assert found["largest_per_cm"] == pytest.approx(33356.4 / 2.0, rel=1e-4)
    assert not any("WARNING" in text for text in done.finding.assumed)
    ase.io.write(tmp_path / "b.extxyz", made[:10])
    with pytest.raises(DataError, match=r"b\.extxyz: got 10 frames"):
        analyse([tmp_path / "b.extxyz"], what=["vdos"], options=Options(skip_ps=0.0))


def test_events_may_be_given_and_windows_must_leave_time(tmp_path):
    path = ethanol_run(tmp_path / "run")
    options = Options(events_fs=(100.0,), window_fs=20.0)
    (done,) = analyse([path], what=["labels"], options=options)
    assert (done.finding.results["inside"], done.finding.results["inside_fs"]) == (1, 40.0)
    assert any("given times, 1 of them" in text for text in done.finding.assumed)
    with pytest.raises(ConfigError, match="--window-fs"):
        analyse([path], what=["labels"], options=Options(events_fs=(100.0,), window_fs=1e6))
    with pytest.raises(DataError, match="no events"):
        analyse([path], what=["labels"], options=Options(events_fs=(1e9,)))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--output"):
        analyse([copper(tmp_path / "cu.extxyz")], what=["rdf"], output=tmp_path / "file" / "below")
    with pytest.raises(ConfigError, match="path"):
        analyse([])


def test_every_analysis_has_a_module_and_is_in_the_help():
    assert bayes_mlff.analyse is analyse
    text = " ".join(CliRunner().invoke(app, ["analyse", "--help"], env={"COLUMNS": "400"}).output.split())
    for name in ANALYSES:
        assert name in text
