"""Triggers of a configuration: refusals that name the key, and the regions that they mean for a structure."""

import ase
import ase.io
import numpy as np
import pytest
import yaml
from ase.constraints import FixAtoms

from bayes_mlff.core import settings
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data import structure_files
from bayes_mlff.data.structure import from_ase
from bayes_mlff.data.structure_settings import StructureSettings
from bayes_mlff.ensemble import error_law
from bayes_mlff.otf import config, regions
from bayes_mlff.otf.criteria import prior_of

FORCE = {"kind": "force", "threshold": "3 kcal/mol/Å"}
EACH = {"kind": "energy_per_atom", "threshold": "1 meV/atom"}


def parsed(*triggers):
    return config.parse({"structure": "ethanol", "triggers": list(triggers)}).triggers


def water(fixed=(), **arrays):
    atoms = ase.Atoms("OH2OH2", [[0, 0, 0], [1, 0, 0], [0, 1, 0], [4.2, 0, 0], [5.2, 0, 0], [4.2, 1, 0]],
                      cell=[5.8, 9, 9], pbc=[True, False, False])  # fmt: skip
    for name, column in arrays.items():
        atoms.set_array(name, np.array(column))
    atoms.set_constraint(FixAtoms(list(fixed)))
    return atoms


def region(atoms, **given):
    (trigger,) = parsed(FORCE | given)
    return regions.region(trigger, from_ase(atoms), "triggers.0")


RAMP = [{"duration_ps": 1.0, "temperature_k": 1200.0, "end_temperature_k": 75.0}]


@pytest.mark.parametrize(
    ("change", "key", "phrase"),
    [
        ({"threshold_temperature_k": 300, "dynamics": {"ensemble": "nve"}}, "threshold_temperature_k", "null in nve"),
        (
            {"triggers": [EACH, FORCE | {"threshold_temperature_k": 300}], "dynamics": {"ensemble": "nve"}},
            "triggers.1.threshold_temperature_k",
            "null in nve",
        ),
        (
            {"threshold_temperature_k": 300, "dynamics": {"temperature_k": 0}},
            "threshold_temperature_k",
            "where the threshold would be 0",
        ),
        ({"threshold_temperature_k": 0}, "threshold_temperature_k", "greater than 0"),
        (
            {
                "threshold_temperature_k": 300,
                "dynamics": {"schedule": RAMP},
                "calibration": {"decay": 0.5},
                "likelihood": {"energy_sigma_fraction": 0.15},
            },
            "likelihood.energy_sigma_fraction",
            "less than 0.1",
        ),
    ],
)
def test_thresholds_for_a_temperature_need_one(change, key, phrase):
    with pytest.raises(ConfigError, match=phrase) as caught:
        config.parse({"structure": "ethanol"} | change)
    assert caught.value.key == key


def test_a_threshold_per_atom_must_be_above_sigma_at_the_lowest_temperature():
    raw = {
        "structure": "ethanol",
        "dynamics": {"schedule": RAMP},
        "triggers": [EACH | {"threshold_temperature_k": 300}],
    }
    found, molecule = config.parse(raw), from_ase(water())
    assert found.lowest_growth(300.0) == 0.5 and found.lowest_growth(None) == 1.0
    for sigma_ev, refused in ((0.0029, False), (0.0031, True)):  # of 6 atoms with at least 0.5 meV for each
        if refused:
            with pytest.raises(
                ConfigError, match=r"triggers\.0\.threshold: got '1 meV/atom'; allowed: more than 1\.03"
            ):
                regions.checked(found.triggers, molecule, sigma_ev, found.lowest_growth)
        else:
            regions.checked(found.triggers, molecule, sigma_ev, found.lowest_growth)


@pytest.mark.parametrize(
    ("triggers", "key", "phrase"),
    [
        ([FORCE | {"threshold": "3 kcal/mol"}], "triggers.0.threshold", "a unit of force"),
        ([EACH | {"threshold": "3 kcal/mol/Å"}], "triggers.0.threshold", "'kcal/mol'"),
        ([EACH | {"threshold": "3 kcal/mol"}], "triggers.0.threshold", "an energy per atom"),
        ([FORCE, FORCE], "triggers.1.name", "another trigger has it"),
        ([EACH, FORCE | {"name": "energy"}], "triggers.1.name", "the trigger on the total energy has it"),
        ([FORCE | {"name": "at O"}], "triggers.0.name", "lower-case letters"),
        ([FORCE | {"name": "_h"}], "triggers.0.name", "beginning with a letter"),
        ([FORCE | {"kind": "stress"}], "triggers.0.kind", "one of force, energy_per_atom"),
        ([{"threshold": "1 eV/Å"}], "triggers.0.kind", "one of force, energy_per_atom"),
        ([{"kind": "force"}], "triggers.0.threshold", "this key is required"),
        ([FORCE | {"elemnts": ["H"]}], "triggers.0.elemnts", "did you mean 'elements'"),
        ([FORCE | {"elements": []}], "triggers.0.elements", "a region without atoms is empty"),
        ([FORCE | {"within": {"of": [], "radius_angstrom": 2}}], "triggers.0.within.of", "without atoms is empty"),
        ([FORCE | {"within": {"of": [0]}}], "triggers.0.within.radius_angstrom", "required"),
        (
            [FORCE | {"within": {"of": [0], "radius_angstrom": 0}}],
            "triggers.0.within.radius_angstrom",
            "greater than 0",
        ),
        ([FORCE | {"indices": [-1]}], "triggers.0.indices.0", "greater than or equal to 0"),
        ([FORCE | {"indices": [0], "labels": ["a"]}], "triggers.0", "one of elements, indices, labels and within"),
        ([FORCE | {"confidence": 0.4}], "triggers.0.confidence", "greater than 0.5"),
        ({"kind": "force"}, "triggers", "a list"),
    ],
)
def test_refusals_name_the_key(triggers, key, phrase):
    with pytest.raises(ConfigError) as caught:
        config.parse({"structure": "ethanol", "triggers": triggers})
    assert caught.value.key == key and phrase in str(caught.value)


def test_a_configuration_with_triggers_reads_back():
    within = {"of": [2], "radius_angstrom": 1.5}
    whole = config.parse({"structure": "ethanol", "triggers": [FORCE | {"name": "near", "within": within}, EACH]})
    assert config.parse(yaml.safe_load(settings.dump(whole))) == whole
    assert [t.shown_unit[0] for t in whole.triggers] == ["kcal/mol/Å", "meV/atom"]
    assert whole.triggers[1].threshold_of(9) == pytest.approx(1e-3)


def test_regions_by_element_index_name_and_distance():
    named = water(label=["ow", "hw", "hw", "host", "hx", "hx"])
    assert region(named).atoms == (0, 1, 2, 3, 4, 5)
    assert region(named, elements=["H"]).atoms == (1, 2, 4, 5)
    assert region(named, indices=[5, 0]).atoms == (0, 5)
    assert region(named, labels=["host", "hw"]).atoms == (1, 2, 3)
    near = region(named, within={"of": [1], "radius_angstrom": 1.2})
    # Atom 4 is across the boundary, at 5.2 of 5.8 Å, and thus 1.6 Å away; atom 0 is at 1 Å.
    assert regions.atoms_now(near, from_ase(named)).tolist() == [0, 1]
    wider = region(named, within={"of": [1], "radius_angstrom": 1.7})
    assert regions.atoms_now(wider, from_ase(named)).tolist() == [0, 1, 2, 4]
    assert wider.said == "an atom within 1.7 Å of H 1"


def test_held_atoms_are_not_watched():
    held = water(fixed=(0, 1, 2))
    assert region(held).atoms == (3, 4, 5) and region(held, elements=["O"]).atoms == (3,)
    for given, key in (
        ({"indices": [0, 2]}, "triggers.0.indices"),
        ({"within": {"of": [2], "radius_angstrom": 1.1}}, "triggers.0.within"),
    ):
        with pytest.raises(ConfigError, match="a region with an atom that moves") as caught:
            region(held, **given)
        assert caught.value.key == key


@pytest.mark.parametrize(
    ("given", "key", "phrase"),
    [
        ({"elements": ["H", "Xe"]}, "triggers.0.elements", "elements of the structure: H, O"),
        ({"indices": [2, 6]}, "triggers.0.indices", "from 0 to 5; there is no atom 6"),
        ({"within": {"of": [9], "radius_angstrom": 1.0}}, "triggers.0.within.of", "there is no atom 9"),
        ({"labels": ["hw"]}, "triggers.0.labels", "gives atoms no names"),
    ],
)
def test_atoms_that_do_not_exist_are_refused(given, key, phrase):
    with pytest.raises(ConfigError, match=phrase) as caught:
        region(water(), **given)
    assert caught.value.key == key
    with pytest.raises(ConfigError, match="names that the structure's file gives: a, b"):
        region(water(label=list("aaabbb")), labels=["c"])


def test_a_threshold_per_atom_below_the_least_sigma_is_refused():
    settings = parsed(EACH, EACH | {"name": "fine", "threshold": "0.1 meV/atom"})
    regions.checked(settings[:1], from_ase(water()), 6 * 2e-4)
    with pytest.raises(ConfigError, match=r"triggers.1.threshold: got '0.1 meV/atom'; allowed: more than 0.2 meV/atom"):
        regions.checked(settings, from_ase(water()), 6 * 2e-4)


def test_names_come_from_the_structures_file(tmp_path):
    path = tmp_path / "a.extxyz"
    ase.io.write(path, water(label=["ow", "hw", "hw", "host", "hx", "hx"]))
    found = structure_files.read(StructureSettings(file=str(path)), path)
    assert found.structure.labels.tolist() == ["ow", "hw", "hw", "host", "hx", "hx"]
    assert not any("not used" in remark for remark in found.remarks)
    cif = tmp_path / "nacl.cif"
    cif.write_text(
        "data_x\n_cell_length_a 5.6\n_cell_length_b 5.6\n_cell_length_c 5.6\n_cell_angle_alpha 90\n"
        "_cell_angle_beta 90\n_cell_angle_gamma 90\n_space_group_name_H-M_alt 'F m -3 m'\nloop_\n_atom_site_label\n"
        "_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
        "Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5\n"
    )
    sites = structure_files.read(StructureSettings(file=str(cif)), cif).structure
    assert [sites.labels[sites.numbers == z].tolist() for z in (11, 17)] == [["Na1"] * 4, ["Cl1"] * 4]


@pytest.mark.parametrize(("trigger", "scale"), [(None, 1 / 3), (EACH, 1 / 3), (FORCE, 1.0)])
def test_samples_around_an_optimum_are_expected_to_be_three_times_too_wide(trigger, scale):
    """Spread and noise alike, so that σ grows with the spread; forces, whose σ is mostly noise, as with chains."""
    section = None if trigger is None else parsed(trigger)[0]
    around, chains = (
        error_law.parts(prior_of(config.parse({"structure": "ethanol", "posterior": kind}), section, 9, 0.01)[0])
        for kind in ("laplace", "chains")
    )
    assert around.factor == pytest.approx(scale * chains.factor, rel=1e-12)
    assert around.floor == pytest.approx(scale * chains.floor, rel=1e-12)
