"""Packages of NequIP are read without running anything, and refused by name where damaged or of another form."""

import io
import zipfile

import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError, WeightsError
from bayes_mlff.models import architectures, registry
from bayes_mlff.models.importers.nequip_files import EAGER, read_model
from bayes_mlff.models.importers.torch_pickle import Inert
from tests.support.nequip_package import FROZEN, METADATA, archive, content, inert, modules, network_of, write

PLAIN, ZBL, PAIRS = "l = 1, one parity", "l = 2, both parities", "by elements"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.nequip.zip"


def test_a_package_goes_by_its_path(file):
    file.write_bytes(content(ZBL))
    config, params = read_model(file)
    loaded = registry.load(str(file))
    assert loaded.config == config and loaded.params["embedding"].dtype == np.float32
    assert params["embedding"].dtype == np.float64 and not any(x.any() for x in params["sigma"]["dense_2"].values())
    assert (config.elements, config.hidden_irreps) == ((1, 6, 8), "3x0e+3x0o+2x1o+2x1e+2x2e+2x2o")
    assert (config.energy_scales, config.energy_shifts) == ((1.1, 0.7, 1.9), (-0.4, 2.3, 0.9))
    assert (config.cutoff_power, config.pair_repulsion.cutoff_power, config.edge_l_max) == (5, 6, 2)
    assert "bessel_frequencies" in params
    with pytest.raises(ConfigError, match=r"missing\.nequip\.zip.*or \.nqx or \.nequip\.zip"):
        registry.load("missing.nequip.zip")


def test_the_format_is_that_of_the_end_of_the_name(tmp_path):
    programs = {"a.nequip.zip": "nequip", "b.c.nequip.zip": "nequip", "a.nqx": "nequix", "a.model": "mace-torch"}
    found = {name: architectures.format_of(tmp_path / name) for name in (*programs, "a.zip", "a.safetensors")}
    assert {name: form.program for name, form in found.items() if form is not None} == programs


def test_what_depends_on_elements_is_restricted_with_them(file):
    file.write_bytes(content(PAIRS))
    whole = registry.Potential(*read_model(file))
    assert whole.config.elements == (1, 6, 8, 13, 14)
    assert whole.config.element_neighbors == pytest.approx((9.0, 12.0, 15.0, 11.0, 20.0))
    assert whole.config.pair_cutoffs[2] == pytest.approx((3.0, 3.7, 4.0, 4.0, 4.0))
    few = registry.restrict(whole, (14, 8, 1)).config
    assert few.element_neighbors == pytest.approx((9.0, 15.0, 20.0))
    assert few.pair_cutoffs == tuple(tuple(map(pytest.approx, r)) for r in ((2.5,) * 3, (3.0, 4.0, 4.0), (4.0,) * 3))
    assert whole.config.trainable_bessels is False and "bessel_frequencies" not in whole.params


def test_a_package_written_again_is_the_same(file, tmp_path):
    """What the tests below change is what they say."""
    config, params = read_model(write(modules(ZBL, tmp_path), file))
    other, before = read_model(tmp_path / "frozen.nequip.zip")
    assert config == other
    np.testing.assert_array_equal(params["embedding"], before["embedding"])


@pytest.mark.parametrize("name", ["scatter_norm_factor", "avg_num_neighbors"])
def test_forms_of_earlier_versions(name, file, tmp_path):
    """Neighbours as an attribute, tensor product without scatter, repulsion with the cutoff of the Bessel functions."""
    models = modules(ZBL, tmp_path)
    network = network_of(models)
    for i in range(3):
        conv = getattr(network, f"layer{i}_convnet").conv
        del conv._modules["avg_num_neighbors_norm"], conv._modules["ghost_exchange"]
        setattr(conv, name, 0.5 if name == "scatter_norm_factor" else 4.0)
        conv._modules["tp"] = conv._modules.pop("tp_scatter").tp
    del network.pair_potential._modules["cutoff"]
    config, _ = read_model(write(models, file, "versions: {nequip: 0.13.0}"))
    assert config.average_neighbors == 4.0 and config.pair_repulsion.cutoff_power == config.cutoff_power == 5


def _change(path, value):
    def change(network):
        *names, last = path.split(".")
        for name in names:
            network = getattr(network, name)
        for group in ("_buffers", "_parameters", "_modules"):
            if last in vars(network).get(group, {}):
                vars(network)[group][last] = value
                return
        setattr(network, last, value)

    return change


def _replace(path, name):
    return _change(path, inert("nequip.nn", name))


CASES = {
    "another block": (_replace("layer1_convnet", "OtherLayer"), "layer1_convnet.module is a OtherLayer"),
    "another convolution": (_replace("layer1_convnet.conv", "Allegro_Module"), "conv is a Allegro_Module"),
    "another gate": (_replace("layer0_convnet.equivariant_nonlin", "NormActivation"), "is a NormActivation"),
    "another module": (_change("_modules", {}), "type_embed is missing; allowed: NodeTypeEmbed"),
    "more modules": (lambda n: n._modules.update(dipole=inert("nequip.nn", "Dipole")), "it has dipole"),
    "more in a block": (
        lambda n: n.layer0_convnet.conv._modules.update(norm=inert("nequip.nn", "LayerNorm")),
        "layer0_convnet.conv has norm",
    ),
    "a kernel": (
        _replace("layer0_convnet.conv.tp_scatter", "OpenEquivarianceTensorProductScatter"),
        "tp_scatter is a OpenEquivariance",
    ),
    "a residual": (_change("layer1_convnet.resnet", True), "layer1_convnet.resnet is True"),
    "Lennard-Jones": (_replace("pair_potential", "LennardJones"), "pair_potential is a LennardJones; allowed: ZBL"),
    "energies in kcal/mol": (_change("pair_potential._qqr2exesquare", np.array(166.0)), "energies in eV"),
    "nuclei of others": (_change("pair_potential.atomic_numbers", np.array([6.0, 7.0, 1.0])), "atomic_numbers are"),
    "fields of graphs": (_change("type_embed.do_categorical_graph_field_embed", True), "categorical_graph_field_embed"),
    "norm of harmonics": (_change("spharm.sh.normalization", "norm"), "spharm.sh.normalization is 'norm'"),
    "a mean": (_change("total_energy_sum.reduce", "mean"), "total_energy_sum.reduce is 'mean'"),
    "factor": (_change("factor.factor", 1.0), "factor is 1.0"),
    "exponent": (_change("bessel_encode.cutoff.p", 5.5), "bessel_encode.cutoff.p is 5.5"),
    "exponent of the repulsion": (_change("pair_potential.cutoff.p", 5.5), "pair_potential.cutoff.p is 5.5"),
    "activation of a readout": (
        lambda n: n.layer0_convnet.conv.edge_mlp.mlp._modules.update({"1": inert("torch.nn", "Mish")}),
        r"activations are \['Mish', 'SiLU'\]; allowed: SiLU",
    ),
    "gain": (_change("layer2_convnet.conv.edge_mlp.mlp.0.alpha", np.array(1.0)), "layers are multiplied by"),
    "activation of gates": (
        lambda n: setattr(
            n.layer0_convnet.equivariant_nonlin.act_gates.acts[0],
            "f",
            type("ssp", (Inert,), {"__module__": "nequip.nn"}),
        ),
        "act_gates are .*ssp",
    ),
    "no connection": (lambda n: n.layer1_convnet.conv._modules.pop("sc"), r"conv.sc is there in the blocks \[2\]"),
    "uneven radial networks": (_change("layer1_convnet.conv.edge_mlp.dims", [5, 7, 7, 9]), "edge_mlp|radial networks"),
    "weights": (_change("type_embed.embed_module.weight", np.full((3, 4), np.nan)), "not finite: .*embed_module"),
    "fewer weights": (_change("layer1_convnet.conv.sc.weight", np.ones(5)), "sc.weight has 5 numbers"),
    "another cutoff": (_change("edge_norm._rmax_recip", np.array(0.3)), "_rmax_recip is"),
    "a negative cutoff": (_change("edge_norm.r_max", -4.0), "r_max is -4.0"),
    "a thousand blocks": (
        lambda n: n._modules.update({f"layer{i}_convnet": n.layer1_convnet for i in range(1000)}),
        "it has 1000 blocks",
    ),
    "a thousand layers": (_change("layer0_convnet.conv.edge_mlp.dims", [6] * 1000), "edge_mlp: layers of"),
}


@pytest.mark.parametrize("name", CASES)
def test_other_models_are_refused_by_name(name, file, tmp_path):
    change, message = CASES[name]
    models = modules(ZBL, tmp_path)
    change(network_of(models))
    with pytest.raises(WeightsError, match=f"a.nequip.zip: .*{message}"):
        read_model(write(models, file))


@pytest.mark.parametrize(
    ("names", "message"),
    [(["C", "X1", "H"], r"type_names has \['X1'\]"), (["C", "C", "H"], "each once"), (["C", "O"], "has|expected")],
)
def test_types_are_chemical_symbols(names, message, file, tmp_path):
    models = modules(PLAIN, tmp_path)
    models[0].type_names = names
    with pytest.raises(WeightsError, match=message):
        read_model(write(models, file))


def test_several_models_or_none_are_refused(file, tmp_path):
    models = modules(PLAIN, tmp_path)
    models._modules["other"] = models[0]
    with pytest.raises(WeightsError, match=r"holds the models \['sole_model', 'other'\]; allowed: one"):
        read_model(write(models, file))
    with pytest.raises(WeightsError, match="holds a dict; allowed: a model"):
        read_model(write({"a": 1}, file))
    with pytest.raises(WeightsError, match="holds a Embedding; allowed: a GraphModel"):
        read_model(write(inert("torch.nn", "Embedding"), file))


def test_models_of_other_packages_are_refused_by_name(file):
    model = inert("allegro.nn", "Allegro_Module")
    with pytest.raises(WeightsError, match=r"names 'allegro.nn.Allegro_Module'; allowed: .*nequip\.\*"):
        read_model(write(model, file))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("versions: {nequip: 0.20.0}", "written by nequip '0.20.0'; allowed: versions 0.7 to 0.19"),
        ("versions: {nequip: 0.6.1}", "written by nequip '0.6.1'"),
        ("versions: {torch: 2.13.0}", "written by nequip 'None'"),
        ("versions: [1]", "written by nequip 'None'"),
        ("", "written by nequip 'None'"),
        ("a: [", "not a package of NequIP, or damaged"),
        ("a: !!python/object/apply:os.system [ls]", "not a package of NequIP, or damaged"),
    ],
)
def test_versions_that_are_not_known_are_refused(metadata, message, file, tmp_path):
    with pytest.raises(WeightsError, match=f"a.nequip.zip: {message}"):
        read_model(write(modules(PLAIN, tmp_path), file, metadata))


def test_files_that_are_no_packages_are_refused(file, tmp_path):
    sound = content(PLAIN)
    for data in (b"", b"PK", b"{}\n" * 50, sound[: len(sound) // 2], sound[:-100], sound[100:]):
        file.write_bytes(data)
        with pytest.raises(WeightsError, match=r"a.nequip.zip: .*allowed: a file as nequip-package build writes it"):
            read_model(file)
    archive(file, b"", {}, METADATA)
    with pytest.raises(WeightsError, match=r"a\.nequip\.zip: not a file of PyTorch"):
        read_model(file)
    with pytest.raises(WeightsError, match=r"gone\.nequip\.zip"):
        read_model(tmp_path / "gone.nequip.zip")


def test_damaged_pickles_never_do_anything_else_than_being_refused(file):
    with zipfile.ZipFile(io.BytesIO(content(PLAIN))) as sound:
        members = {info.filename.partition("/")[2]: sound.read(info) for info in sound.infolist()}
    numbers = {name: data for name, data in members.items() if name.endswith(".storage")}
    rng, refused = np.random.default_rng(0), 0
    for _ in range(60):
        program = bytearray(members[EAGER.pickle])
        for at in rng.integers(0, len(program), 5):
            program[at] ^= int(rng.integers(1, 256))
        try:
            read_model(archive(file, bytes(program), numbers))
        except WeightsError:
            refused += 1
    assert refused > 30  # the others have a change in what is not read


def test_the_frozen_packages_are_small():
    assert FROZEN.stat().st_size < 200_000
