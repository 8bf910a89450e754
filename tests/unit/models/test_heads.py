"""A head is chosen where a file has several; where it has none, naming one is an error; other kinds of models too."""

import struct
import zipfile

import numpy as np
import pytest

import bayes_mlff
from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.finetune import config as finetune_configuration
from bayes_mlff.finetune.run import read_model
from bayes_mlff.models import architectures, registry
from bayes_mlff.models.architectures import FileFormat, Published
from bayes_mlff.models.importers import mace_files, mace_heads, sevennet_files
from bayes_mlff.otf import beginning
from bayes_mlff.otf import config as run_configuration
from tests.support.places import ROOT
from tests.support.sevennet_case import frozen_case

TWO = ROOT / "tests" / "parity" / "mace_heads.model"
DIGEST = "0" * 64


@pytest.fixture
def published(monkeypatch, tmp_path):
    """The file of two heads as a model of another project; counts how often it was read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = []

    def find(name, key, say):
        found.append(name)
        return TWO, DIGEST

    form = FileFormat("mace-torch", ".model", mace_files.read_model, heads=True)
    model = Published(find, form, DIGEST)
    monkeypatch.setattr(architectures, "published", lambda: {"two": model})
    return found


def test_each_head_of_a_published_model_is_converted_once(published, tmp_path):
    first, second = (registry.load("two", head=head) for head in ("pbe", "r2scan"))
    assert [p.config.head for p in (first, second)] == ["pbe", "r2scan"]
    assert first.config.energy_shifts != second.config.energy_shifts
    again = registry.load("two", head="pbe")
    assert again.config == first.config and published == ["two", "two"]
    assert len(list((tmp_path / "bayes_mlff").glob("two-*"))) == 2


@pytest.mark.parametrize("head", [None, "omat", "../../pbe"])
def test_a_published_model_lists_its_heads_even_after_a_conversion(published, head):
    registry.load("two", head="pbe")
    with pytest.raises(ConfigError, match=r"head: got .*: pbe, r2scan$"):
        registry.load("two", head=head)


@pytest.mark.parametrize("name", ["nequip-md17-small", "mace-perovskite-small"])
def test_models_without_heads_refuse_one(name):
    with pytest.raises(ConfigError, match=f"^head: got 'pbe'; allowed: none: {name} has no heads$"):
        registry.load(name, head="pbe")


def test_files_of_programs_without_heads_refuse_one(tmp_path):
    path = tmp_path / "a.nqx"
    path.write_bytes(b"not read")
    with pytest.raises(ConfigError, match=r"head: got 'pbe'; allowed: none: .*a\.nqx has no heads"):
        registry.load(str(path), head="pbe")


@pytest.fixture
def modal(monkeypatch, tmp_path):
    """A checkpoint of SevenNet with two modalities, as far as the reader of checkpoints gives it."""
    path = tmp_path / "modal.pth"
    path.write_bytes(b"replaced")
    settings, state = frozen_case("modalities")
    monkeypatch.setattr(sevennet_files, "read", lambda _: sevennet_files.Checkpoint(settings, state))
    return path


def test_modalities_of_a_sevennet_are_its_heads(modal):
    first, second = (registry.load(str(modal), head=head) for head in ("PBE", "R2SCAN"))
    assert [p.config.head for p in (first, second)] == ["PBE", "R2SCAN"]
    assert first.config.energy_scales != second.config.energy_scales
    for head in (None, "SCAN"):
        with pytest.raises(ConfigError, match=r"^head: got .*modal\.pth: R2SCAN, PBE$"):
            registry.load(str(modal), head=head)


def test_a_sevennet_without_modalities_refuses_one(modal, monkeypatch):
    settings, state = frozen_case("first")
    monkeypatch.setattr(sevennet_files, "read", lambda _: sevennet_files.Checkpoint(settings, state))
    assert registry.load(str(modal)).config.solid_harmonics
    with pytest.raises(ConfigError, match=r"^head: got 'PBE'; allowed: none: .*modal\.pth has no heads$"):
        registry.load(str(modal), head="PBE")


def test_other_sevennets_are_refused_by_path(modal, monkeypatch):
    settings, state = frozen_case("first")
    changed = {k: v for k, v in settings.items() if k != "cutoff_function"}
    for found in (changed, settings | {"interaction_type": "gaunt"}, settings | {"version": "x"}):
        monkeypatch.setattr(sevennet_files, "read", lambda _, found=found: sevennet_files.Checkpoint(found, state))
        with pytest.raises(WeightsError, match="SevenNet"):
            registry.load(str(modal))
    doubled = state | {"0_convolution.denominator": np.ones(1)}
    monkeypatch.setattr(sevennet_files, "read", lambda _: sevennet_files.Checkpoint(settings, doubled))
    with pytest.raises(WeightsError, match=r"0_convolution\.denominator are the same entry under different names"):
        registry.load(str(modal))


def test_heads_of_a_run_and_of_a_fine_tuning_reach_the_model(tmp_path):
    raw = {"data": {"train": "a.xyz"}, "model": str(TWO)}
    sets = type("Sets", (), {"atomic_numbers": np.array([1, 8])})
    found = read_model(finetune_configuration.parse(raw | {"head": "r2scan"}), sets)
    assert found.config.head == "r2scan" and found.config.elements == (1, 8)
    for head in ({}, {"head": "omat"}):
        with pytest.raises(ConfigError, match=r"^head: got .*pbe, r2scan$"):
            read_model(finetune_configuration.parse(raw | head), sets)
    with pytest.raises(ConfigError, match=r"^head: got 'omat'; .*pbe, r2scan$"):
        bayes_mlff.run({"structure": "ethanol", "model": str(TWO), "head": "omat"}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert bayes_mlff.load(TWO, head="pbe").config.head == "pbe"


def test_another_head_is_another_run():
    config = run_configuration.parse({"structure": "ethanol", "model": str(TWO), "head": "pbe"})
    potential = registry.restrict(registry.load(str(TWO), head="pbe"), (1, 6, 8))
    start = type("Start", (), {"potential": potential})
    same = beginning._model(config, start)
    assert beginning.model_differences(same, potential) == ()
    other = beginning._model(config.model_copy(update={"head": "r2scan"}), start)
    assert "settings of the architecture differ" in beginning.model_differences(other, potential)[-1]
    with pytest.raises(ConfigError, match="head: got 'omat'"):
        beginning._model(config.model_copy(update={"head": "omat"}), start)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def instance(module: str, name: str, attributes: bytes = b"") -> bytes:
    """Pickled object of a class, with attributes as pairs of pickled text and value."""
    return f"c{module}\n{name}\n".encode() + b")\x81}(" + attributes + b"ub"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("mace.modules.models", "AtomicDipolesMACE"),
        ("mace.modules.models", "EnergyDipolesMACE"),
        ("mace.modules.models", "AtomicDielectricMACE"),
        ("mace.modules.extensions", "MACELES"),
        ("mace.modules.extensions", "PolarMACE"),
    ],
)
def test_other_kinds_of_models_are_refused_by_name(tmp_path, module, name):
    path = tmp_path / "a.model"
    parts = text("les") + instance("les.les", "Les") + text("field") + instance("graph_longrange.energy", "Field")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02" + instance(module, name, parts) + b".")
    with pytest.raises(WeightsError, match=f"model is a {name}"):
        registry.load(str(path))


def test_states_of_several_heads_without_one_for_each_are_refused():
    with pytest.raises(WeightsError, match=r"energies has shape \(3,\); allowed: one for each of the 2 heads"):
        mace_heads.one_head({mace_heads.ENERGIES: np.ones(3)}, 2, 0)
    with pytest.raises(WeightsError, match=r"linear_1\.weight has 9 numbers"):
        mace_heads.one_head({"readouts.1.linear_1.weight": np.ones(9)}, 2, 0)
