"""The GPAW engine: its settings, the corrected stress, several processes; a stand-in takes the place of the program."""

import sys

import ase
import numpy as np
import pytest

from bayes_mlff.core.errors import (
    ConfigError,
    DataError,
    EngineFailedError,
    EngineSetupError,
)
from bayes_mlff.data.structure import Structure, from_ase
from bayes_mlff.engines.ase_engine import level_hash
from bayes_mlff.engines.gpaw import install as install_gpaw
from bayes_mlff.engines.gpaw import settings as gpaw_settings
from bayes_mlff.engines.gpaw.engine import GpawEngine
from bayes_mlff.engines.gpaw.settings import GpawSettings, Hubbard, gpaw_arguments
from bayes_mlff.engines.moments import moments_of_elements
from bayes_mlff.engines.registry import make_engine
from tests.support.faulty_programs import PLANTED, copper


def lamno3(seed: int | None = None) -> Structure:
    """Four Mn in two planes along c, both at the cell's faces and moved across them when rattled."""
    positions = [(0.5, 0, 0), (0.5, 0, 0.5), (0, 0.5, 0), (0, 0.5, 0.5), (0.99, 0.05, 0.25)]
    atoms = ase.Atoms("Mn4La", scaled_positions=positions, cell=[5.5367, 5.7473, 7.6929], pbc=True)
    if seed is not None:
        atoms.rattle(0.1, seed=seed)
        atoms.wrap()
    return from_ase(atoms)


def test_planes_alternate_along_c():
    for structure in (lamno3(), lamno3(0), lamno3(1), lamno3(2)):
        moments = moments_of_elements({"Mn": 4.0}, "A-AFM", structure)
        assert moments == (4.0, -4.0, 4.0, -4.0, 0.0)
    assert moments_of_elements({"Mn": 4.0}, "ferromagnetic", lamno3()) == (4.0, 4.0, 4.0, 4.0, 0.0)
    turned = lamno3()._replace(pbc=np.array([True, True, False]))
    single = lamno3()._replace(positions=lamno3().positions * [1, 1, 0])
    for structure, said in ((turned, "periodic along c"), (single, "found 1"), (copper(), "Mn")):
        with pytest.raises(ConfigError, match=said):
            moments_of_elements({"Mn": 4.0}, "A-AFM", structure)


def test_gpaw_settings_become_the_arguments_of_its_calculator():
    settings = GpawSettings(hubbard={"Mn": Hubbard(u_ev=4.0)}, magmoms={"Mn": 4.0}, magnetic_order="A-AFM")
    arguments = gpaw_arguments(settings)
    assert arguments["mode"] == {"name": "pw", "ecut": 400.0} and arguments["setups"] == {"Mn": ":d,4.0,0"}
    assert arguments["kpts"] == [[0.25, 0.25, 0.25]] and arguments["symmetry"] == "off"
    assert arguments["occupations"] == {"name": "fermi-dirac", "width": 0.05}
    assert gpaw_arguments(GpawSettings(kpts=(2, 2, 2)))["kpts"] == {"size": [2, 2, 2], "gamma": True}
    assert settings.subtract_net_force and not GpawSettings(cutoff_ev=600).subtract_net_force
    assert not GpawSettings(subtract_net_force=False).subtract_net_force
    assert GpawSettings.model_validate(settings.model_dump(mode="json")) == settings
    for bad in (
        {"magnetic_order": "A-AFM"},
        {"stress": "pulay-corrected", "cutoff_ev": 900},
        {"stress": "raw", "pulay_virial_ev": [1.0] * 6},
        {"stress": "pulay-corrected", "pulay_virial_ev": [1.0] * 3},
        {"stress": "pulay-corrected", "pulay_virial_ev": [float("nan")] * 6},
        {"kpts": [0, 1, 1]},
        {"kpts": []},
        {"hubbard": {"Mn": {"u_ev": -1}}},
        {"cutoff": 400},
    ):
        with pytest.raises(ValueError, match="for GpawSettings"):
            GpawSettings.model_validate(bad)


def test_without_gpaw_the_message_says_how_to_get_it(tmp_path):
    with make_engine(GpawSettings(environment={"PYTHONPATH": str(tmp_path)}), tmp_path) as engine:
        (tmp_path / "gpaw.py").write_text("import _gpaw_is_not_compiled")
        command = (
            rf"gpaw.install --python {sys.executable}, or .*GPAW_CONFIG=siteconfig\.py {sys.executable} -m pip install "
            "gpaw gpaw-data"
        )
        with pytest.raises(EngineSetupError, match=command):
            engine.check(copper())
    # ASE itself imports the package for its list of file formats.
    assert not {"gpaw.dft", "gpaw.calculator", "_gpaw"} & set(sys.modules)


@pytest.mark.parametrize(
    ("settings", "structure", "said"),
    [
        ({"magmoms": (1.0,)}, copper(), r"engine\.magmoms.*4 numbers"),
        ({"magmoms": {"Mn": 4.0}}, copper(), r"engine\.magmoms.*Cu"),
        ({"hubbard": {"Mn": {"u_ev": 4.0}}}, copper(), r"engine\.hubbard.*'Mn'.*Cu"),
        ({"stress": "raw"}, copper()._replace(pbc=np.zeros(3, bool)), r"engine\.stress"),
        ({}, copper()._replace(pbc=np.zeros(3, bool), cell=np.zeros((3, 3))), "box"),
        (
            {},
            copper()._replace(pbc=np.array([True, True, False]), cell=3.6 * np.diag([1.0, 1.0, 0.0])),
            "three cell vectors",
        ),
    ],
)
def test_what_does_not_fit_the_structure_is_refused_before_anything_starts(settings, structure, said):
    engine = GpawEngine(GpawSettings.model_validate(settings))
    with pytest.raises(ConfigError, match=said):
        engine.check(structure)
    assert engine._worker._process is None


@pytest.fixture
def fake_gpaw(tmp_path):
    """Make a package `gpaw` whose stress is wrong by 100/ecut in xx and half of that in yy, eV/Å³."""
    (tmp_path / "run").mkdir()
    (tmp_path / "planted_engine.py").write_text(PLANTED)
    (tmp_path / "gpaw.py").write_text(
        "import os\nfrom planted_engine import Springs\n"
        "class KohnShamConvergenceError(Exception):\n    pass\n"
        "class GPAW(Springs):\n"
        "    def __init__(self, mode, mixer=None, **kwargs):\n"
        "        super().__init__()\n        self.ecut, self.mixer = mode['ecut'], mixer\n"
        "        open('calls', 'a').write(f'{mode[\"ecut\"]} {mixer}\\n')\n"
        "    def calculate(self, *args, **kwargs):\n"
        "        super().calculate(*args, **kwargs)\n"
        "        if os.path.exists('hard') and self.mixer is None:\n            raise KohnShamConvergenceError('no')\n"
        "        self.results['stress'] = self.results['stress'] + [100 / self.ecut, 50 / self.ecut, 0, 0, 0, 0]\n"
    )
    return tmp_path / "run"


def gpaw_like(fake_gpaw, **changes) -> GpawEngine:
    engine = GpawEngine(GpawSettings(environment={"PYTHONPATH": str(fake_gpaw.parent)}, **changes), fake_gpaw)
    return engine


def test_the_stress_is_corrected_by_one_calculation_for_all_and_the_state_remembers(fake_gpaw):
    calls = fake_gpaw / "engine" / "calls"
    right = [
        1e-3 * copper(k).positions.sum() * np.array([[0.0, 5.0, 4.0], [5.0, 1.0, 3.0], [4.0, 3.0, 2.0]]) for k in (0, 1)
    ]
    missing = np.diag([100.0, 50.0, 0.0]) / 800
    with gpaw_like(fake_gpaw, stress="pulay-corrected") as engine:
        assert engine.save_state() is None
        for k in (0, 1):
            result = engine.label(copper(k))
            np.testing.assert_allclose(result.label.stress, right[k] + missing, atol=1e-12)
            assert any("Pulay correction of -10.01 GPa found" in line for line in result.diagnostics) == (k == 0)
        assert calls.read_text().split("\n")[:-1] == ["800.0 None", "400.0 None", "400.0 None"]  # afresh for each
        state = engine.save_state()
    with gpaw_like(fake_gpaw, stress="pulay-corrected") as engine:
        engine.restore_state(state)
        np.testing.assert_allclose(engine.label(copper(1)).label.stress, right[1] + missing, atol=1e-12)
        assert calls.read_text().count("800.0") == 1
        engine.restore_state(None)
        engine.label(copper(1))
        assert calls.read_text().count("800.0") == 2
    volume = np.linalg.det(copper(1).cell)
    known = tuple(volume * x for x in (-0.125, -0.0625, 0.0, 0.0, 0.0, 0.0))
    with gpaw_like(fake_gpaw, stress="pulay-corrected", pulay_virial_ev=known) as engine:
        for _ in range(2):
            result = engine.label(copper(1))
            np.testing.assert_allclose(result.label.stress, right[1] + missing, atol=1e-12)
            assert not any("found" in line for line in result.diagnostics)
            engine.restore_state(None)
        larger = copper(1)._replace(cell=1.1 * copper(1).cell)
        stress = engine.label(larger).label.stress
        np.testing.assert_allclose(stress, right[1] + (2.0 - 1.1**-3) * missing, atol=1e-12)
        assert calls.read_text().count("800.0") == 2 and "given, found at 800 eV" in engine.description
        with pytest.raises(DataError, match="another level of theory"):
            engine.restore_state(state)
    with gpaw_like(fake_gpaw, stress="raw") as engine:
        np.testing.assert_allclose(engine.label(copper(1)).label.stress, right[1] + 2 * missing, atol=1e-12)
        with pytest.raises(DataError, match="another level of theory"):
            engine.restore_state(state)
    with gpaw_like(fake_gpaw) as engine:
        assert engine.label(copper()).label.stress is None


def test_gpaws_own_convergence_error_leads_to_more_damping_and_then_back(fake_gpaw):
    (fake_gpaw / "engine").mkdir()
    (fake_gpaw / "engine" / "hard").touch()
    with gpaw_like(fake_gpaw) as engine:
        result = engine.label(copper())
        assert result.attempts == 2 and "attempt 1 of 3: KohnShamConvergenceError: no" in result.diagnostics
        (fake_gpaw / "engine" / "hard").unlink()
        assert engine.label(copper(1)).attempts == 1
    calls = (fake_gpaw / "engine" / "calls").read_text().split("\n")
    assert [line.split()[1] for line in calls[:-1]] == ["None", "{'backend':", "None"]
    with gpaw_like(fake_gpaw, max_attempts=1) as engine:
        (fake_gpaw / "engine" / "hard").touch()
        with pytest.raises(EngineFailedError, match="attempt 1 of 1"):
            engine.label(copper())


PLANTED_MPIEXEC = """#!{python}
import os, subprocess, sys
command, count = sys.argv[3:], int(sys.argv[2])
if os.path.exists("fails"):
    sys.exit(42)
ranks = [subprocess.Popen(command, env=os.environ | {{"RANK": str(i)}}) for i in range(count)]
sys.exit(max(rank.wait() for rank in ranks))
"""


def test_several_processes_share_each_label_and_one_replies(fake_gpaw, monkeypatch):
    place = fake_gpaw.parent
    (place / "gpaw").mkdir()
    (place / "gpaw.py").rename(place / "gpaw" / "__init__.py")
    (place / "gpaw" / "mpi.py").write_text("import os\nclass world:\n    rank = int(os.environ['RANK'])\n")
    (place / "_gpaw.py").write_text("Communicator = None\n")
    mpiexec = place / "mpiexec"
    mpiexec.write_text(PLANTED_MPIEXEC.format(python=sys.executable))
    mpiexec.chmod(0o755)
    monkeypatch.setattr(gpaw_settings, "_mpiexec", lambda python: str(mpiexec))
    monkeypatch.setattr(gpaw_settings, "usable_cores", lambda: 2)
    with gpaw_like(fake_gpaw) as alone, gpaw_like(fake_gpaw, processes=3) as together:
        assert together.description == f"{alone.description}, 3 processes"
        expected, got = alone.label(copper()), together.label(copper())
        np.testing.assert_array_equal(got.label.forces, expected.label.forces)
        together.label(copper(1))
        assert together.settings_hash == alone.settings_hash
        (fake_gpaw / "engine" / "fails").touch()
        with pytest.raises(EngineFailedError, match=r"mpiexec -n 3 ended with status 42 and no result"):
            together.label(copper())
    calls = (fake_gpaw / "engine" / "calls").read_text().split("\n")[:-1]
    assert len(calls) == 1 + 2 * 3
    assert "2 processes" in gpaw_like(fake_gpaw, processes="auto", kpts=[4, 1, 1]).description
    assert "processes" not in gpaw_like(fake_gpaw, processes="auto").description  # one k-point
    (place / "_gpaw.py").write_text("")
    assert "processes" not in gpaw_like(fake_gpaw, processes="auto", kpts=[4, 1, 1]).description
    with pytest.raises(EngineSetupError, match=r"engine\.processes: got 3; no GPAW built with MPI"):
        gpaw_like(fake_gpaw, processes=3)


def test_the_hash_follows_the_level_of_theory():
    def of(**changes) -> str:
        engine = GpawEngine(GpawSettings(**changes))
        engine._worker._hash = level_hash(engine._worker._settings, "1", "gpaw 1")  # what the child would say
        return engine.settings_hash

    assert of() == of(timeout_s=5.0) == of(threads=2) == of(max_attempts=1)
    other = [of(cutoff_ev=500), of(stress="raw"), of(stress="pulay-corrected"), of(magmoms={"Cu": 1.0}), of(xc="LDA")]
    assert len({of(), *other}) == 6


def test_the_installer_refuses_what_cannot_work(monkeypatch):
    console = type("Quiet", (), {"print": lambda *_, **__: None})()
    with pytest.raises(EngineSetupError, match="executable Python"):
        install_gpaw.install("/no/python", console)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EngineSetupError, match=r"no g\+\+.*apt-get install g\+\+"):
        install_gpaw.install(sys.executable, console)
