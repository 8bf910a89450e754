"""The page of what goes wrong: everything that has a name is there, and nothing else is."""

import ast
import re
from pathlib import Path

import pytest
from website import configuration

import bayes_mlff
from bayes_mlff.core import errors
from bayes_mlff.ensemble.calculator import OutsideTrainingWarning
from bayes_mlff.otf import guards, plausibility
from bayes_mlff.otf.config import RunConfig

ROOT = Path(__file__).parents[4]
PACKAGE = Path(bayes_mlff.__file__).parent
ENTRIES = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "trouble.md").read_text(encoding="utf-8"), re.MULTILINE)
STOPPING = (
    "campaign/labels.py",
    "otf/guards.py",
    "otf/learning.py",
    "otf/loop.py",
    "otf/storm.py",
    "finetune/sampling.py",
    "posterior/laplace.py",
)
CLASSES = {
    name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, errors.BayesMlffError)
} | {OutsideTrainingWarning.__name__}


def texts(node):
    """Literal pieces of all strings in a piece of a program."""
    return [x.value for x in ast.walk(node) if isinstance(x, ast.Constant) and isinstance(x.value, str)]


def calls(path, wanted):
    """Literal pieces of the arguments of each call that `wanted` accepts, in a file of the package."""
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    return [texts(node) for node in ast.walk(tree) if isinstance(node, ast.Call) and wanted(ast.unparse(node.func))]


def said(pieces):
    """Whether an entry quotes one of the pieces of a message."""
    return any(entry in piece for entry in ENTRIES for piece in pieces)


@pytest.fixture(scope="module")
def everything():
    """All literal pieces of strings in the package, joined."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py"))
    return "\n".join(piece for tree in trees for piece in texts(tree))


def test_every_error_class_has_an_entry_and_every_entry_of_a_class_has_one():
    named = {entry for entry in ENTRIES if re.fullmatch(r"[A-Z]\w+", entry)}
    assert named == CLASSES


def test_every_guard_has_an_entry():
    assert not set(guards._SETTINGS.values()) - set(ENTRIES)
    assert "not finite" in ENTRIES


@pytest.mark.parametrize("path", STOPPING)
def test_every_stop_of_a_run_has_an_entry(path):
    found = calls(path, lambda name: name == "RunStoppedError")
    assert found
    assert [pieces for pieces in found if not said(pieces)] == []


def test_all_modules_that_stop_a_run_are_looked_at():
    paths = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if calls(path.relative_to(PACKAGE), lambda name: name == "RunStoppedError")
    }
    # Comparisons of fine-tunings repeat the messages of the fine-tunings in them.
    assert paths == {*STOPPING, "finetune/comparison.py", "cli/finetune.py"}


def test_every_condition_of_the_verdict_has_an_entry():
    found = calls("report/verdict.py", lambda name: name == "missing.append")
    assert len(found) >= 6
    assert [pieces for pieces in found if not said(pieces)] == []
    assert "no structure has been labelled" in ENTRIES
    assert "of the audits" in ENTRIES


def test_every_doubt_about_a_label_has_an_entry():
    found = calls("otf/plausibility.py", lambda name: name == "reasons.append")
    written = [pieces for pieces in found if any(len(piece) > 10 for piece in pieces)]
    assert written
    assert [pieces for pieces in written if not said(pieces)] == []
    assert {"from the prediction by", plausibility._FLIP} <= set(ENTRIES)  # what functions and engines write


def test_entries_quote_messages_and_keys_that_exist(everything):
    keys = {key.name for part in configuration.parts(RunConfig) for key in part.keys}
    assert [entry for entry in ENTRIES if entry not in everything and entry not in keys | CLASSES] == []


def test_every_exit_status_is_in_the_table_of_the_command_line():
    from bayes_mlff.core import command_line

    page = (ROOT / "docs" / "reference" / "command_line.md").read_text(encoding="utf-8")
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert listed == {0, errors.EXIT_INTERRUPTED, command_line.EXIT_MISTAKE, command_line.EXIT_ENGINE}
