"""Checkpoints of EquiformerV2 are read by names, and what does not fit is refused by name."""

import copy

import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.md.settings import DynamicsConfig
from bayes_mlff.models import architectures, registry
from bayes_mlff.models.catalogue import ENTRIES
from bayes_mlff.models.importers import equiformer_v2_files, torch_pickle
from bayes_mlff.models.known.entry import Download
from bayes_mlff.otf import config as run_config
from bayes_mlff.otf import problem, systems
from bayes_mlff.otf.integrator import refuse_direct_forces
from bayes_mlff.testing.tiny import tiny_equiformer_v2
from tests.parity.make_equiformer_v2_reference import CHECKPOINTS, ELEMENTS, SCALES, TINY

CONTENTS = {name: torch_pickle.read(path, inert=equiformer_v2_files.INERT) for name, path in CHECKPOINTS.items()}
BIAS = "module.backbone.edge_degree_embedding.rad_func.net.0.bias"
TABLES = ("source_embedding.weight", "target_embedding.weight")


def read(monkeypatch, content):
    """Read content in the place of that of a file."""
    monkeypatch.setattr(torch_pickle, "read", lambda path, **_: content)
    return equiformer_v2_files.read_model(CHECKPOINTS["hydra"])


def changed(generation="hydra", **entries):
    """A checkpoint with other entries of its settings; None: without."""
    content = copy.deepcopy(CONTENTS[generation])
    model = content["config"]["model"]
    arguments = content["config"]["model_attributes"] if isinstance(model, str) else model["backbone"]
    arguments.update(entries)
    return content


@pytest.mark.parametrize("generation", list(CHECKPOINTS))
def test_settings_become_a_configuration(generation):
    made = registry.load(str(CHECKPOINTS[generation]))
    found = made.config
    assert (found.elements, found.forces, found.r_max, found.max_neighbors) == (ELEMENTS, "direct", 3.5, 500)
    assert (found.l_max, found.m_max, found.grid_resolution, found.channels) == (2, 1, 6, TINY["sphere_channels"])
    assert found.energy_scale == pytest.approx(SCALES["energy"] / TINY["avg_num_nodes"])
    assert (found.force_scale, found.average_degree) == (SCALES["forces"], 3.0)
    assert not np.asarray(made.params["sigma"]["dense_0"]["weight"]).any()


def test_only_elements_of_the_training_data_are_taken(monkeypatch):
    content = changed()
    for name, value in content["state_dict"].items():
        if name.endswith(TABLES):
            value[7] = 0.002
    # The moving average is what counts.
    assert read(monkeypatch, content).config.elements == ELEMENTS
    content["ema"] = None
    assert read(monkeypatch, content).config.elements == (1, 6, 7, 8)
    for name, value in content["state_dict"].items():
        if name.endswith(TABLES):
            value[:] = 0.001
    with pytest.raises(WeightsError, match=r"elements is .*; .*distinct atomic numbers"):
        read(monkeypatch, content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"norm_type": "rms_norm_sh"}, "norm_type is 'rms_norm_sh'; Input should be 'layer_norm_sh'"),
        ({"use_m_share_rad": True}, "use_m_share_rad is True"),
        ({"enforce_max_neighbors_strictly": False}, "enforce_max_neighbors_strictly is False"),
        ({"mmax_list": [3]}, "m_max must be at most l_max, 2"),
        ({"lmax_list": [2, 2]}, "lmax_list is .2, 2."),
        ({"grid_resolution": None}, "grid_resolution is None"),
        ({"use_s2_act_attn": True}, "use_s2_act_attn is True"),
        ({"colour": "blue"}, "colour is 'blue'; Extra inputs"),
        ({"num_layers": 60_000}, "the settings claim 60000 layers"),
        ({"num_layers": 2}, r"missing blocks\.1\.norm_1\.norm_l0\.weight"),
        ({"num_heads": 3}, r"blocks\.0\.ga\.alpha_dot has the shape \(2, 2\), expected \(3, 2\)"),
        ({"use_grid_mlp": False}, r"missing blocks\.0\.ffn\.gating_linear\.weight"),
        ({"use_gate_act": True}, r"fc_m0\.bias has the shape"),
        ({"max_num_elements": 90}, "shapes .* for 90 rows"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(monkeypatch, change, said):
    with pytest.raises(WeightsError, match=said):
        read(monkeypatch, changed(**change))


def without(content, name):
    content["ema"] = None
    del content["state_dict"][name]


def renamed(content, name):
    content["ema"] = None
    content["state_dict"][f"{name}_of_mine"] = content["state_dict"].pop(name)


def spoilt(content, name):
    content["ema"] = None
    content["state_dict"][name][0] = np.nan


def another(content, name):
    content["config"] = {"model": "gemnet_oc", "model_attributes": {"num_blocks": 4}}


def doubled(content, name):
    content["state_dict"][name.removeprefix("module.")] = content["state_dict"][name]


def shorter(content, name):
    content["ema"]["shadow_params"] = content["ema"]["shadow_params"][:-1]


def shuffled(content, name):
    content["ema"]["shadow_params"] = content["ema"]["shadow_params"][::-1]


def program(content, name):
    content["state_dict"][name] = "print()"


def shifted(content, name):
    content["normalizers"]["forces"]["mean"] = np.array(0.5)


def stressed(content, name):
    content["normalizers"]["stress"] = content["normalizers"]["forces"]


def unscaled(content, name):
    content["normalizers"]["energy"] = {"mean": np.array(0.0)}


def empty(content, name):
    content.clear()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without, r"missing edge_degree_embedding\.rad_func\.net\.0\.bias"),
        (renamed, r"unused edge_degree_embedding\.rad_func\.net\.0\.bias_of_mine"),
        (spoilt, r"edge_degree_embedding\.rad_func\.net\.0\.bias is not finite"),
        (another, "config.model is 'gemnet_oc'; allowed: equiformer_v2"),
        (doubled, "net.0.bias.* more than once"),
        (shorter, r"ema has \d+ tensors for \d+ weights"),
        (shuffled, "ema has tensors of other shapes"),
        (program, "no tensors"),
        (shifted, r"normalizers\.forces\.mean is 0\.5"),
        (stressed, "normalizers are .*stress"),
        (unscaled, "rmsd"),
        (empty, r"missing \['config', 'normalizers', 'state_dict'\]"),
    ],
)
def test_contents_that_do_not_fit_are_refused_by_name(monkeypatch, damage, said):
    content = changed()
    damage(content, BIAS)
    with pytest.raises(WeightsError, match=said):
        read(monkeypatch, content)


def test_checkpoints_of_other_programs_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(b"PK nothing")
    with pytest.raises(WeightsError, match=r"a\.pt: not a file of PyTorch"):
        registry.load(str(path))


def test_the_published_model_has_a_row():
    known = ENTRIES["equiformer-v2-31m-oc20"]
    assert isinstance(known.source, Download) and known.source.file == "eq2_31M_ec4_allmd.pt"
    assert known.cutoff == 12.0 and known.licence.commercial and "not the gradient" in known.data
    assert architectures.published()[known.name].form.program == "fairchem"


@pytest.mark.parametrize("forces", ["direct", "gradient"])
@pytest.mark.parametrize("ensemble", ["nve", "npt", "nvt"])
def test_dynamics_at_constant_energy_or_pressure_needs_forces_that_are_the_gradient(forces, ensemble):
    settings = tiny_equiformer_v2((1, 6, 8), forces=forces)
    dynamics = DynamicsConfig(ensemble=ensemble)
    if forces == "gradient" or ensemble == "nvt":
        refuse_direct_forces(dynamics, settings)
        return
    with pytest.raises(ConfigError, match=rf"dynamics\.ensemble: got '{ensemble}'; allowed: nvt: .*not the gradient"):
        refuse_direct_forces(dynamics, settings)


def test_a_run_with_direct_forces_is_refused_before_it_begins():
    settings = tiny_equiformer_v2((1, 6, 8), forces="direct")
    parsed = run_config.parse({"structure": "ethanol", "dynamics": {"ensemble": "nve"}})
    start = systems.initial_structure(parsed.structure, base=CHECKPOINTS["hydra"].parent).structure
    with pytest.raises(ConfigError, match=r"dynamics\.ensemble: got 'nve'"):
        problem.prepare(parsed, start, registry.Potential(settings, {}))
