"""Figures of a crystal: on a perovskite whose distances are known, and on run directories that these tests write."""

import json
from functools import partial

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from matplotlib.figure import Figure

from bayes_mlff.analysis import bonds
from bayes_mlff.analysis.bonds import Bonds
from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.core.units import KCAL_MOL
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import from_ase
from bayes_mlff.engines.moments import moment_remarks
from bayes_mlff.md import schedule
from bayes_mlff.md.schedule import Segment
from bayes_mlff.report import crystal_figures as crystals
from bayes_mlff.report import figures, run_data
from bayes_mlff.report import page as report
from bayes_mlff.report.run_data import LabelSeries
from bayes_mlff.runs import trajectory
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.growing_files import THERMO_COLUMNS, Frame
from tests.support.manganite import shaken

THRESHOLD = 6.0 * KCAL_MOL
DYNAMICS = """
  duration_ps: 0.8
  schedule:
    - {duration_ps: 0.2, temperature_k: 300}
    - {duration_ps: 0.4, temperature_k: 800, pressure_gpa: 1.0, end_pressure_gpa: 2.0}
    - {duration_ps: 0.2, temperature_k: 300}
"""
CONFIG = f"structure: x.cif\ndynamics:\n  ensemble: npt{DYNAMICS}engine: {{name: ase, calculator: a:b, stress: true}}\n"
FRAME = "step=0 time_fs=0"
TITLES = ("Mn-O distances", "Lattice parameters", "Temperature and pressure")


def test_means_over_time_and_segments():
    time = np.arange(0.0, 801.0, 10.0)
    level = np.where(time < 200, 1.9, np.where(time < 600, 2.0, 2.1))
    distance = level[:, None, None] + np.array([0.0, 0.0, 0.1, 0.1, 0.3, 0.3]) + np.zeros((81, 4, 1))
    distance[time < 40.0] += 9.0  # settling: left out
    octahedra = Bonds("Mn-O", time, distance)
    assert np.allclose(bonds.mean_distances(octahedra, 100.0, 150.0), [1.9, 2.0, 2.2], atol=1e-12)
    assert bonds.mean_distances(octahedra, 900.0, 950.0) is None
    segments = [Segment(duration_ps=0.19, temperature_k=300), Segment(duration_ps=0.1, temperature_k=300,
                end_temperature_k=800), Segment(until_ps=2.0, temperature_k=800),
                Segment(duration_ps=1.0, temperature_k=300)]  # fmt: skip
    means = crystals.segment_means(octahedra, schedule.build(segments, temperature_k=1.0, pressure_gpa=0.0))
    assert [(m.temperature_k, m.end_fs) for m in means] == [(300.0, 190.0), (800.0, 800.0)]
    assert means[0].begin_fs == pytest.approx(38.0)
    inside = (time >= 290 + 0.2 * 510) & (time <= 800)
    assert means[1].distance[0] == pytest.approx(level[inside].mean(), rel=1e-12)
    (whole,) = crystals.segment_means(octahedra, schedule.constant(300.0))
    assert (whole.begin_fs, whole.end_fs) == (160.0, 800.0)


def write_run(path, frames, *, config=CONFIG, time_step=10.0):
    """A run directory in the format of a run, with two labels."""
    path.mkdir(exist_ok=True)
    (path / "config.yaml").write_text(config)
    first = from_ase(frames[0])
    run = RunDirectory(path)
    series = (Frame(i, i * time_step, a.positions, a.cell.array, None) for i, a in enumerate(frames))
    run.append_frames(first.numbers, first.pbc, series)
    for step in (0, len(frames) // 2):
        label = Label(-1.0, np.zeros((len(first.numbers), 3)))
        dataset.append(path / "dataset.extxyz",
                       LabelRecord(first, label, step, step * time_step, "initial", 0.0, None, "abc", 1.0))  # fmt: skip
    rows = np.ones((len(frames), len(THERMO_COLUMNS)))
    rows[:, 0], rows[:, 1] = np.arange(len(frames)), time_step * np.arange(len(frames))
    run.append_thermo(rows)


def shown(path):
    panels = report.panels(path, run_data.read(path), threshold_ev=THRESHOLD)
    return {panel.title: panel for panel in panels}


def test_trajectory_comes_back_without_its_torn_end(tmp_path):
    frames = shaken(4)
    write_run(tmp_path, frames)
    path = tmp_path / "trajectory.extxyz"
    with path.open("a") as file:
        file.write('20\nLattice="1 0')
    got = trajectory.read(path)
    assert np.array_equal(got.time_fs, [0.0, 10.0, 20.0, 30.0])
    assert np.array_equal(got.numbers, frames[0].numbers)
    assert np.allclose(got.positions, [a.positions for a in frames], rtol=0, atol=1e-7)
    assert np.allclose(got.cells, [a.cell.array for a in frames], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "missing"),
        ("", "trajectory.extxyz"),
        ("1\nstep=0\nHe 0 0 0\n", "time_fs"),
        ("1\ntime_fs=0\nHe 0 0 0\n", "step"),
        (f"1\n{FRAME} pbc=\"T T T\"\nHe 0 0 0\n", "Lattice"),
        (f"1\n{FRAME} pbc=\"T T\"\nHe 0 0 0\n", "pbc"),
        (f"1\n{FRAME}\nHe 0 0 0 1 1 1\n", "columns beside species and positions"),
        (f"1\n{FRAME}\nQq 0 0 0\n", "Qq"),
        (f"1\n{FRAME} Lattice=\"1 0 0\"\nHe 0 0 0\n", "reshape"),
        (f"1\n{FRAME}\nHe 0 x 0\n", "x"),
        (f"1\n{FRAME}\nHe 0 nan 0\n", "finite"),
        (f"1\n{FRAME}\nHe 0 0 0\n1\n{FRAME}\nNe 0 0 0\n", "other atoms"),
        ("é", "codec"),
    ],
)  # fmt: skip
def test_unusable_trajectory_is_an_error_and_a_sentence(tmp_path, text, message):
    write_run(tmp_path, shaken(3))
    path = tmp_path / "trajectory.extxyz"
    path.unlink()
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(RunDirectoryError, match=message):
        trajectory.read(path)
    panels = shown(tmp_path)
    assert "not readable" in panels["Structure of the crystal"].text
    assert str(tmp_path) not in panels["Structure of the crystal"].text
    assert TITLES[0] not in panels


def test_page_of_a_perovskite_shows_bonds_cell_and_conditions(tmp_path):
    write_run(tmp_path, shaken(81))
    page = report.write_report(tmp_path, threshold_ev=THRESHOLD, title="t").read_text(encoding="utf-8")
    for title in TITLES:
        assert f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,iVBOR' in page
    assert "averages over 0.16 ps" in page
    assert "Lengths are divided" in page
    assert "has not been logged" not in page


def test_jumps_are_marked_where_they_happen(tmp_path):
    built = schedule.build(
        [Segment(duration_ps=t, temperature_k=k) for t, k in ((0.2, 300.0), (0.4, 800.0), (0.2, 300.0))],
        temperature_k=1.0,
        pressure_gpa=0.0,
    )
    rows = Figure().subplots(2, 1)
    for axes in rows:
        figures.mark_segments(axes, built, 800.0)
    assert [[line.get_xdata()[0] for line in axes.lines] for axes in rows] == [pytest.approx([0.2, 0.6])] * 2
    assert [[text.get_text() for text in axes.texts] for axes in rows] == [["300 K", "800 K", "300 K"], []]
    write_run(tmp_path, shaken(81))
    thermo, one = run_data.read(tmp_path).thermo, np.ones(1)
    labels = LabelSeries(400.0 * one, 0.1 * one, one, one, one > 2.0, None, 0.95)
    for draw in (
        partial(figures.labels_panel, labels, threshold_ev=1.0, n_atoms=20, end_fs=800.0),
        partial(figures.sigma_panel, thermo, np.array([400.0])),
    ):
        assert draw(schedule=built).png != draw().png == draw(schedule=None).png


def test_magnetic_moments_that_turned_over_are_in_the_table(tmp_path):
    write_run(tmp_path, shaken(3))
    [said] = moment_remarks([4.0], [-4.0], from_ase(Atoms("Mn")), jumps=True)
    lines = [{"event": "engine_remark", "time": 1.0, "step": 7, "remark": text} for text in ("else", said)]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = report.write_report(tmp_path, threshold_ev=THRESHOLD, title="t").read_text(encoding="utf-8")
    assert f"<th>Reference, step 7</th><td>{said}</td>" in page and ">else<" not in page


def test_crystal_at_constant_cell_without_octahedra_or_pressure(tmp_path):
    salt = Atoms("NaCl", positions=[[0, 0, 0], [2.8, 0, 0]], cell=2.8 * (1 - np.eye(3)), pbc=True)
    write_run(tmp_path, [salt] * 3, config="structure: x.cif\ndynamics: {ensemble: nve}\n")
    lines = (tmp_path / "thermo.csv").read_text().splitlines()
    (tmp_path / "thermo.csv").write_text("".join(line.rsplit(",", 1)[0] + "\n" for line in lines))
    panels = shown(tmp_path)
    assert panels["Lattice parameters"].text == "The cell of this run is constant."
    assert "has not been logged" in panels["Temperature and pressure"].text
    assert not any("distances" in title for title in panels)


@pytest.mark.parametrize("boxed", [False, True])
def test_molecule_has_none_of_these_panels(tmp_path, boxed):
    atoms = molecule("CH3CH2OH")
    atoms.set_cell(12.0 * np.eye(3))
    atoms.pbc = boxed
    write_run(tmp_path, [atoms] * 3, config="structure: ethanol\n")
    panels = shown(tmp_path)
    assert not {*TITLES, "Structure of the crystal"} & set(panels)
    assert "Conformation of ethanol and labels" in panels


def test_schedule_in_the_figure_ends_with_the_run():
    built = schedule.build(
        [Segment(duration_ps=0.2, temperature_k=300), Segment(duration_ps=0.4, temperature_k=300,
         end_temperature_k=800)], temperature_k=1.0, pressure_gpa=0.0)  # fmt: skip
    got = crystals._cut(built, built.temperature_k, 300.0)
    assert np.allclose(got, [[300.0, 300.0], [300.0, 425.0]])
