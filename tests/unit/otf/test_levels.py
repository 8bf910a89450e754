"""What is said of the levels of theory of model and reference, with settings of several engines."""

import pytest
from pydantic import TypeAdapter

from bayes_mlff.data.level import Level, differences, named
from bayes_mlff.engines.registry import EngineSettings
from bayes_mlff.models.catalogue import ENTRIES
from bayes_mlff.models.known.levels import MATERIALS_PROJECT
from bayes_mlff.models.origin import Origin
from bayes_mlff.otf.levels import remark

LAMNO3, ETHANOL = {"La", "Mn", "O"}, {"C", "H", "O"}
PBE_U = {"name": "gpaw", "hubbard": {"Mn": {"u_ev": 4.0}}}
XTB = {"name": "ase", "calculator": "tblite.ase:TBLite", "arguments": {"method": "GFN2-xTB"}}


def level(engine):
    return TypeAdapter(EngineSettings).validate_python(engine).level


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({"name": "pyscf"}, Level("B3LYP")),
        ({"name": "pyscf", "xc": "pbe,pbe", "dispersion": "d3bj"}, Level("PBE", dispersion="D3(BJ)")),
        ({"name": "pyscf", "xc": "b3lyp-d3bj"}, Level("B3LYP", dispersion="D3(BJ)")),
        ({"name": "pyscf", "xc": "wb97m_v"}, Level("ωB97M", dispersion="VV10")),
        ({"name": "pyscf", "xc": "r2scan"}, Level("r2SCAN")),
        ({"name": "pyscf", "xc": "m06-2x"}, Level("M06-2X")),
        ({"name": "gpaw"}, Level("PBE")),
        (PBE_U, Level("PBE", ("Mn",))),
        ({"name": "chgnet"}, MATERIALS_PROJECT),
        (XTB, Level("GFN2-xTB", dispersion=None)),
        (XTB | {"arguments": {"method": "GFN1-xTB"}, "name": "worker"}, Level("GFN1-xTB", dispersion=None)),
        (
            {"name": "worker", "calculator": "gpaw:GPAW", "arguments": {"xc": "PBE", "setups": {"Mn": ":d,4.0,0"}}},
            Level("PBE", ("Mn",)),
        ),
        (
            {"name": "ase", "calculator": "ase.calculators.vasp:Vasp", "arguments": {"xc": "PBE", "ivdw": 12}},
            Level("PBE", dispersion="D3(BJ)"),
        ),
        (
            {"name": "ase", "calculator": "ase.calculators.vasp:Vasp", "arguments": {"xc": "PBE", "ldau": True}},
            Level("PBE", None),
        ),
        ({"name": "ase", "calculator": "my_calc:make"}, None),
    ],
)
def test_levels_of_engines(engine, expected):
    assert level(engine) == expected


@pytest.mark.parametrize(
    ("model", "engine", "symbols", "parts"),
    [
        ("nequip-md17-small", {"name": "pyscf"}, ETHANOL, ["functional PBE, not B3LYP", "dispersion TS, not no disp"]),
        ("mace-mpa-0", {"name": "pyscf"}, ETHANOL, ["functional PBE, not B3LYP"]),
        ("mace-perovskite-small", {"name": "gpaw"}, LAMNO3, ["+U on Mn, not no +U"]),
        ("mace-matpes-pbe-0", PBE_U, LAMNO3, ["no +U, not +U on Mn"]),
        ("mace-matpes-r2scan-0", PBE_U, LAMNO3, ["functional r2SCAN, not PBE", "no +U, not +U on Mn"]),
        ("nequix-mp-1", XTB, ETHANOL, ["functional PBE, not GFN2-xTB"]),
        ("mace-off23-small", {"name": "pyscf", "xc": "wb97m-v"}, ETHANOL, ["dispersion D3(BJ), not dispersion VV10"]),
    ],
)
def test_what_differs_in_kind_is_said_with_what_follows(model, engine, symbols, parts):
    said = remark(Origin(model), level(engine), symbols)
    assert said is not None and "\n" not in said
    inside = said[said.index("(") :]
    assert all(part in inside for part in parts) and inside.count(", not ") == len(parts)
    assert said.startswith(f"the model was trained on {ENTRIES[model].level.text}, the reference is ")
    assert "the first label shifts all energies to the model's zero" in said


@pytest.mark.parametrize(
    ("model", "engine", "symbols"),
    [
        ("nequix-mp-1", PBE_U, LAMNO3),
        ("mace-perovskite-small", PBE_U, LAMNO3),
        ("mace-mpa-0", {"name": "gpaw"}, {"Si", "O"}),  # no +U on silicon
        ("mace-mpa-0", {"name": "gpaw"}, {"Mn"}),  # nor on metals without O or F
        ("mace-matpes-pbe-0", {"name": "gpaw"}, LAMNO3),
        ("sevennet-0", {"name": "chgnet"}, LAMNO3),
        ("mace-off23-small", {"name": "pyscf", "xc": "wb97m-d3bj"}, ETHANOL),
    ],
)
def test_nothing_is_said_of_equal_levels(model, engine, symbols):
    assert remark(Origin(model), level(engine), symbols) is None


def test_the_head_decides():
    r2scan = named("r2scan")
    assert remark(Origin("mace-mh-1", "matpes_r2scan"), r2scan, LAMNO3) is None
    assert "functional ωB97M" in str(remark(Origin("mace-mh-1", "omol"), r2scan, LAMNO3))


def test_unknown_levels_are_said_in_one_short_line():
    for origin, reference in ((Origin(), named("pbe")), (Origin("sevennet-0", tuned=True), named("pbe"))):
        said = remark(origin, reference, ETHANOL)
        assert said is not None and "not compared" in said and len(said) < 100
    said = remark(Origin("sevennet-0"), None, ETHANOL)
    assert said == "of the model: PBE+U; that of the reference is not known here, and not compared"


def test_values_that_one_of_them_does_not_state_are_not_compared():
    assert differences(Level("PBE", None, dispersion=None), Level("PBE", ("Mn",), dispersion="D4"), LAMNO3) == []


@pytest.mark.parametrize("pair", [("r²SCAN", "R2SCAN"), ("ωB97M", "wb97m"), ("PBE", "pbe")])
def test_spellings_of_one_functional_are_equal(pair):
    assert differences(Level(pair[0]), Level(pair[1]), ETHANOL) == []
