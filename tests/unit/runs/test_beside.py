"""A run keeps the modules and files beside its configuration that the reference uses, and goes on with these."""

import json
import shutil
import sys

import pytest

from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.engines import beside, factories
from bayes_mlff.engines.ase_engine import AseSettings
from bayes_mlff.engines.beside import Beside, gather
from bayes_mlff.engines.pyscf.molecule import PyscfSettings
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.engines.worker.engine import WorkerSettings
from bayes_mlff.models import registry
from bayes_mlff.otf import beginning, systems
from bayes_mlff.runs import start
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.start import Start
from tests.support.small_run import MODEL

ETHANOL = InitialStructure(systems.structure("ethanol", base=systems._folder()))
KINDS = pytest.mark.parametrize("kind", [AseSettings, WorkerSettings])


@pytest.fixture
def project(tmp_path):
    """A folder with a calculator that imports a module and a package from there, and files."""
    folder = tmp_path / "project"
    (folder / "kept_package").mkdir(parents=True)
    (folder / "kept_package" / "__init__.py").write_text("from .inner import SHIFT\n")
    (folder / "kept_package" / "inner.py").write_text("SHIFT = 1.0\n")
    (folder / "kept_helper.py").write_text("import ase\nimport kept_package\n")
    (folder / "unrelated.py").write_text("")
    (folder / "ase.py").write_text("")  # never imported: there is an installed one
    (folder / "kept_calc.py").write_text(
        "def make(**arguments):\n    import kept_helper\n    from ase.calculators.emt import EMT\n    return EMT()\n"
    )
    (folder / "basis.dat").write_text("1 2 3\n")
    paths = list(sys.path)
    yield folder
    sys.path[:] = paths
    for name in [name for name in sys.modules if name.startswith("kept_")]:
        del sys.modules[name]


def settings(kind, **arguments):
    return kind(calculator="kept_calc:make", arguments=arguments)


def create(project, kind, **arguments):
    """The directory of a run, with the engine's hash."""
    chosen = settings(kind, **arguments)
    with make_engine(chosen, base=project) as engine:
        made = Start(
            ETHANOL, registry.initialize(MODEL, 0), engine.settings_hash, "an engine", project, gather(chosen, project)
        )
    run = project / "run"
    RunDirectory(run).create("", start.contents(made))
    return run, chosen


MODULES = {"kept_calc.py", "kept_helper.py", "kept_package/__init__.py", "kept_package/inner.py"}


@KINDS
def test_what_is_used_is_found_and_nothing_else(project, kind):
    found = gather(settings(kind, file="basis.dat", other="no_such.dat", n=1), project)
    assert set(found.kept) == {*MODULES, "basis.dat"} and found.needed == ()
    assert found.kept["basis.dat"] == b"1 2 3\n"
    assert gather(kind(calculator="ase.calculators.emt:EMT"), project) == Beside()
    assert gather(PyscfSettings(), project) == Beside()


def test_modules_of_inner_calculators_and_exceptions_are_found(project):
    inner = {"calcs": [{"calculator": "kept_calc:make"}]}
    found = gather(AseSettings(calculator="ase.calculators.mixing:SumCalculator", arguments=inner), project)
    assert set(found.kept) == MODULES
    named = AseSettings(calculator="ase.calculators.emt:EMT", retry_exceptions=("unrelated:Error",))
    assert set(gather(named, project).kept) == {"unrelated.py"}


@KINDS
def test_a_run_goes_on_after_everything_has_moved(project, tmp_path, kind):
    create(project, kind, file="basis.dat")
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    (project / "run").rename(moved)
    shutil.rmtree(project)
    found = start.read(moved)
    base = start.base_of(found, moved)
    assert base == moved / "start" / "files" and (base / "basis.dat").is_file()
    with make_engine(settings(kind, file="basis.dat"), moved, base=base) as engine:
        beginning.check_engine(found, engine.settings_hash, engine.description)
    assert beginning.folder_of(found, moved, tmp_path) == base


def test_the_same_module_found_elsewhere_is_the_same_reference(project, tmp_path, monkeypatch):
    """Such as by PYTHONPATH, which comes before the copy in the run."""
    run, _ = create(project, AseSettings)
    monkeypatch.syspath_prepend(str(project))
    sys.modules.pop("kept_calc", None)
    copies = str(run / "start" / "files")
    of_project = factories.digest("kept_calc:make", str(project))
    assert of_project is not None and factories.digest("kept_calc:make", copies) == of_project
    (project / "kept_calc.py").write_text("make = 1\n")
    assert factories.digest("kept_calc:make", copies) is None


def test_a_module_that_has_changed_is_refused_by_name_or_not_used(project):
    run, _ = create(project, AseSettings)
    found = start.read(run)
    assert beginning.folder_of(found, run, project) == project
    (project / "kept_helper.py").write_text("import ase\n")
    with pytest.raises(
        RunDirectoryError, match=r"started from another kept_helper\.py than \S+/kept_helper\.py is now"
    ):
        beginning.folder_of(found, run, project)
    assert start.base_of(found, run) == run / "start" / "files"


def test_a_damaged_copy_is_refused_by_name(project):
    run, _ = create(project, AseSettings)
    (run / "start" / "files" / "kept_package" / "inner.py").write_text("SHIFT = 2.0\n")
    with pytest.raises(RunDirectoryError, match=r"inner\.py: not what the run was started from"):
        start.read(run)


def test_a_file_that_is_not_kept_is_named_when_it_is_gone(project, tmp_path, monkeypatch):
    outside = str(tmp_path / "outside.dat")
    (tmp_path / "outside.dat").write_text("4")
    monkeypatch.setattr(beside, "MOST_BYTES", 1000)
    (project / "basis.dat").write_text("1" * 1000)
    run, _ = create(project, AseSettings, file="basis.dat", more=["../outside.dat"], whole=outside)
    found = start.read(run)
    assert set(found.beside.kept) == MODULES
    assert found.beside.needed == tuple(sorted(["../outside.dat", "basis.dat", outside]))
    assert start.base_of(found, run) == project
    (project / "basis.dat").unlink()
    with pytest.raises(RunDirectoryError, match=r"project/basis\.dat, which engine\.arguments name, is gone"):
        start.base_of(found, run)


def test_an_earlier_run_without_copies_is_read(project):
    run, _ = create(project, AseSettings)
    path = run / "start" / "identity.json"

    identity = json.loads(path.read_text())
    del identity["kept"], identity["needed"]
    path.write_text(json.dumps(identity))
    assert start.base_of(start.read(run), run) == project
