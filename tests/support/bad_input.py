"""Hostile inputs for every reader of the package, which answers with a value that reads back or a named error.

A `Target` is a reader with a strategy of inputs, most of them valid ones that were damaged a little. `try_input` raises
nothing but what a user should never see.
"""

import copy
import io
import string
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import yaml
from hypothesis import strategies as st

from bayes_mlff.core import settings
from bayes_mlff.core.command_line import override
from bayes_mlff.core.errors import BayesMlffError
from bayes_mlff.finetune import config as finetune_config
from bayes_mlff.otf import config as run_config
from bayes_mlff.otf import systems

LONGEST_MESSAGE: Final = 20_000

ENGINES: Final[tuple[dict[str, Any], ...]] = (
    {"name": "ase", "calculator": "ase.calculators.emt:EMT", "arguments": {"a": 1, "b": [0.5]}, "stress": True},
    {"name": "worker", "calculator": "a:B", "retries": [{}, {"maxiter": 3}], "environment": {"A": "b"}},
    {"name": "gpaw", "hubbard": {"Mn": {"orbital": "d", "u_ev": 4.0}}, "magmoms": {"Mn": 4.0}, "kpts": [[0.0, 0.5, 0]]},
    {"name": "chgnet", "threads": 2},
)
FINETUNINGS: Final[tuple[dict[str, Any], ...]] = (
    {"data": {"train": "a.npz", "validation": "b.npz", "frames": 3}, "prior": {"kind": "normal"}},
    {"data": {"train": "a.xyz"}, "sampler": {"kind": "long", "samples": 3, "start": 1e-3}, "method": "adam"},
    {"data": {"train": "a.xyz"}, "sampler": {"steps": 900, "chains": 4}, "optimizer": {"members": 2}},
)
NUMBERS: Final = ("nan", "inf", "-inf", "1e400", "-1", "0", "1e-320", "1e308", "9" * 30, "9" * 5000, "1_0", "٣", "0x1f")
YAML: Final = (
    *NUMBERS,
    *(
        "&a [*a]",
        "*a",
        "<<: {seed: 1}",
        "!!python/object/apply:os.system [x]",
        "!!binary aGk=",
        "!!set {a, b}",
        "? [1]: 2",
    ),
    *(
        "2024-99-99",
        "1:30",
        "010",
        "1e-3",
        "No",
        "yes",
        "~",
        "null",
        "",
        "{",
        "}",
        "[",
        "- - - -",
        "'",
        '"\\ud800"',
        "\t",
    ),
    *(
        "\x00",
        "\ufeff",
        "\x85",
        "%YAML 1.1\n---\n",
        "---\n",
        "...\n",
        "#",
        ": ",
        "seed: 1\n",
        "!!float x",
        "!!int x",
        "=",
    ),
    *("[" * 500, "{a: " * 200, "\n  a: 1\n", "💥", "é", "x" * 3000),
)
XYZ: Final = (
    *NUMBERS,
    *(
        "Xx",
        "0",
        "T",
        "F",
        'pbc="T T"',
        'pbc="a b c"',
        "pbc=3",
        'Lattice="0 0 0 0 0 0 0 0 0"',
        'lattice="1 0 0 0 1 0 0 0 1"',
    ),
    *(
        'Lattice="5 0 0 0 5 0 0 0 -5"',
        'Lattice="1 2 3"',
        "Properties=species:S:1:pos:R:1000000000000",
        "Properties=pos",
    ),
    *(
        "Properties=species:S:1:pos:R:3",
        "Properties=species:S:1:pos:R:3:REF_forces:R:3",
        "REF_energy=",
        "REF_energy=abc",
    ),
    *(
        "REF_energy=nan",
        "REF_energy=1e300",
        "REF_energy",
        "energy=1",
        'REF_stress="1 2"',
        'REF_stress="_JSON [[1]]"',
        "\n",
    ),
    *(
        "1000000000000",
        "VEC1 1 0 0",
        "\n\n",
        '"',
        "'",
        "=",
        "{",
        "\\",
        "\x00",
        "_JSON {",
        'step="_JSON [' + "[" * 3000 + '"',
    ),
)


class Target(NamedTuple):
    """A reader and what to try on it."""

    name: str
    inputs: st.SearchStrategy[Any]  # bytes where `use` reads a file
    use: Callable[[Any, Path], None]  # (input, an empty folder)
    sound: tuple[Any, ...]  # inputs that must be accepted


def try_input(target: Target, value: Any, folder: Path) -> bool:
    """Whether the input was accepted.

    Raises:
      AssertionError: if it was accepted and does not read back, or refused in a message that nobody can read.
      Exception: if it was refused by anything but an error of this package.
    """
    try:
        target.use(value, folder)
    except BayesMlffError as error:
        text = str(error)
        assert 10 < len(text) < LONGEST_MESSAGE, f"message of {len(text)} characters: {text[:200]}"
        text.encode("utf-8", "surrogateescape")
        return False
    return True


anything: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from((*NUMBERS, 10**400, -1, 0, 1e-320, 1e308, "x" * 5000, "\ud800", b"bytes", {1, 2}, 2.5j)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def damaged_tree(draw: st.DrawFn, bases: tuple[Any, ...]) -> Any:
    """One of some nested values, changed in one to three places."""
    tree = copy.deepcopy(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        if not places:
            return draw(anything)
        parent, key = draw(st.sampled_from(places))
        action = draw(st.sampled_from(("replace", "replace", "wrap", "drop", "add", "rename", "deepen", "repeat")))
        if action == "replace":
            parent[key] = draw(anything)
        elif action == "wrap":
            parent[key] = [parent[key]]
        elif action == "drop":
            del parent[key]
        elif action == "deepen":
            for _ in range(draw(st.sampled_from((5, 50, 2000)))):
                parent[key] = {"a": parent[key]}
        elif action == "repeat":
            parent[key] = [parent[key]] * draw(st.sampled_from((2, 300)))
        elif isinstance(parent, dict):
            new = draw(
                st.text(string.ascii_lowercase, max_size=3) | st.integers() | st.sampled_from(("ase", "kind", "name"))
            )
            name = f"{key}{new}" if action == "rename" and isinstance(key, str) else new
            parent[name] = parent.pop(key) if action == "rename" else draw(anything)
    return draw(anything) if draw(st.integers(0, 30)) == 0 else tree


def _places(tree: Any, depth: int = 0) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        if depth < 6:
            yield from _places(value, depth + 1)


@st.composite
def damaged_text(draw: st.DrawFn, bases: tuple[str, ...], pieces: tuple[str, ...]) -> bytes:
    """One of some texts, changed in one to four places."""
    text = draw(st.sampled_from(bases))
    for _ in range(draw(st.integers(1, 4))):
        lines = text.split("\n")
        i = draw(st.integers(0, len(lines) - 1))
        words = lines[i].split(" ")
        j = draw(st.integers(0, len(words) - 1))
        piece = draw(st.sampled_from(pieces) | st.text(max_size=4))
        action = draw(st.sampled_from(("word", "word", "insert", "drop word", "drop", "double", "line", "cut", "move")))
        if action == "word":
            head, separator, _ = words[j].partition("=")
            words[j] = head + separator + piece if separator and draw(st.booleans()) else piece
        elif action == "insert":
            words.insert(j, piece)
        elif action == "drop word":
            del words[j]
        lines[i] = " ".join(words)
        if action == "drop":
            del lines[i]
        elif action == "double":
            lines.insert(i, lines[i])
        elif action == "line":
            lines.insert(i, piece)
        elif action == "move":
            lines.append(lines.pop(i))
        text = "\n".join(lines)
        if action == "cut":
            text = text[: draw(st.integers(0, len(text)))]
    content = text.encode("utf-8", "surrogatepass")
    return draw(damaged_bytes((content,))) if draw(st.integers(0, 15)) == 0 else content


@st.composite
def damaged_bytes(draw: st.DrawFn, bases: tuple[bytes, ...]) -> bytes:
    """One of some files, with bytes changed, left out, added or cut off."""
    content = bytearray(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(1, 3))):
        # Headers are at both ends of the formats concerned.
        near = draw(st.integers(0, min(len(content), 400)))
        at = draw(st.sampled_from((near, max(len(content) - near, 0), draw(st.integers(0, len(content))))))
        end = at + draw(st.sampled_from((0, 1, 1, 4, 100)))
        match draw(st.sampled_from(("change", "change", "cut", "drop"))):
            case "change":
                content[at:end] = draw(st.binary(max_size=8) | st.sampled_from((b"\xff" * 8, b"\0" * 8, b"9999999999")))
            case "cut":
                del content[at:]
            case "drop":
                del content[at:end]
    return bytes(content)


def echoed(raw: Any, read: Any) -> bool:
    """Whether what was read says what was written, so that no default took its place."""
    if isinstance(raw, dict):
        return isinstance(read, dict) and all(key in read and echoed(value, read[key]) for key, value in raw.items())
    if isinstance(raw, list | tuple):
        same = isinstance(read, list | tuple) and len(raw) == len(read)
        return same and all(echoed(a, b) for a, b in zip(raw, read, strict=True))
    if isinstance(read, bool) and isinstance(raw, str):
        return raw.lower() in (("true", "yes", "on", "t", "y", "1") if read else ("false", "no", "off", "f", "n", "0"))
    if isinstance(read, int | float) and isinstance(raw, str):
        return float(raw) == read
    return raw == read and isinstance(raw, bool) == isinstance(read, bool)


def _use_run(raw: Any, _: Path) -> None:
    parsed = run_config.parse(raw)
    assert run_config.parse(settings.parse_yaml(settings.dump(parsed), key="k", source="s")) == parsed
    whole = parsed.model_dump(mode="json")
    if isinstance(raw, dict) and isinstance(raw.get("structure"), str):
        whole["structure"] = whole["structure"]["file"]  # a path alone is the short form
    assert echoed(raw, whole)
    assert 1 <= parsed.n_steps < 2**31 and 0.0 < parsed.threshold_ev(9) < np.inf
    schedule = parsed.dynamics.conditions()
    assert np.all(schedule.end_fs > schedule.begin_fs) and np.isfinite(schedule.temperature_k).all()


def _use_finetune(raw: Any, _: Path) -> None:
    parsed = finetune_config.parse(raw)
    for text in (settings.dump(parsed), finetune_config.template(parsed)):
        assert finetune_config.parse(settings.parse_yaml(text, key="k", source="s")) == parsed
    assert echoed(raw, parsed.model_dump(mode="json"))


def _use_file(use: Callable[[Any, Path], None]) -> Callable[[Any, Path], None]:
    def through_a_file(content: bytes, folder: Path) -> None:
        path = folder / "config.yaml"
        path.write_bytes(content)
        use(settings.read_yaml(path), folder)

    return through_a_file


def _use_overrides(items: list[str], folder: Path) -> None:
    raw = copy.deepcopy(RUNS[0])
    override(raw, items)
    _use_run(raw, folder)


def _runs() -> tuple[dict[str, Any], ...]:
    built_in = [systems.settings(name, profile) for name, profiles in systems.SYSTEMS.items() for profile in profiles]
    scheduled = {"schedule": [{"until_ps": 1.0, "temperature_k": 300.0}, {"duration_ps": 2.0, "temperature_k": 800.0}]}
    by_engine = [{"structure": "a.xyz", "engine": engine, "dynamics": scheduled} for engine in ENGINES]
    triggers = [
        {"kind": "force", "threshold": "3 kcal/mol/Å", "within": {"of": [0, 3], "radius_angstrom": 1.5}},
        {"kind": "force", "name": "h", "threshold": "0.1 eV/A", "elements": ["H"], "calibration": {"a": 2.0}},
        {"kind": "energy_per_atom", "threshold": "1 meV/atom", "confidence": 0.9},
    ]
    return (*built_in, *by_engine, {"structure": "a.xyz", "triggers": triggers})


RUNS: Final = _runs()
_KEYS: Final = (
    "seed",
    "sampler.chains",
    "dynamics.schedule",
    "engine.name",
    "engine.basis",
    "dynamics.barostat.cell",
    "a.b",
)


def config_targets() -> list[Target]:
    """Settings of both programs as values, as YAML and from the command line."""
    texts = tuple(yaml.safe_dump(raw, sort_keys=False) for raw in RUNS)
    finetuning = tuple(yaml.safe_dump(raw, sort_keys=False) for raw in FINETUNINGS)
    key = st.sampled_from(_KEYS) | st.text("abc._=", max_size=8)
    item = st.builds(
        lambda k, s, v: f"{k}{s}{v}", key, st.sampled_from(("=", "=", "=", "")), st.sampled_from(YAML) | st.text()
    )
    return [
        Target("run settings", damaged_tree(RUNS), _use_run, RUNS),
        Target("fine-tuning settings", damaged_tree(FINETUNINGS), _use_finetune, FINETUNINGS),
        Target("run settings in YAML", damaged_text(texts, YAML), _use_file(_use_run), _encoded(texts)),
        Target(
            "fine-tuning settings in YAML",
            damaged_text(finetuning, YAML),
            _use_file(_use_finetune),
            _encoded(finetuning),
        ),
        Target(
            "settings on the command line",
            st.lists(item, min_size=1, max_size=3),
            _use_overrides,
            (["seed=7", "dynamics.duration_ps=1e-1"],),
        ),
    ]


def _encoded(texts: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(text.encode() for text in texts)


def repacked(content: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """A zip archive with members changed, or dropped where the change is None."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            member = change(name, old.read(name))
            if member is not None:
                new.writestr(name, member)
    return stream.getvalue()
