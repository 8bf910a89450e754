"""Keywords for charge and spin of known calculators, from the sources of ASE 3.29 and tblite 0.8."""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

from pydantic import JsonValue

Path = tuple[str, ...]


class Dialect(NamedTuple):
    """How charge and spin are passed to one calculator."""

    charge: Path | None = None  # keyword for the total charge, e; nested keywords with their sections
    multiplicity: Path | None = None  # keyword for 2S + 1
    unpaired: Path | None = None  # keyword for 2S
    open_shell: Mapping[str, JsonValue] = {}  # further arguments if 2S is not 0, unless the user sets them
    always: bool = False  # pass the multiplicity even if it is not stated, since the default is wrong for some systems
    sums_moments: bool = False  # 2S is the sum of the initial moments; there is no keyword for it
    holds_moments: bool = False  # GPAW: the sum of the initial moments is kept if `occupations` says so
    moments: Literal["used", "unused", "harmful"] = "used"  # how the calculator treats initial moments
    stated: tuple[Path, ...] = ()  # other places where 2S + 1 may be stated
    blind: bool = False  # a correction to another calculator that does not depend on charge and spin
    reads: tuple[str, ...] = ()  # see `CalculatorSettings.reads`
    complete: bool = False  # its default parameters are all keywords; it ignores others silently


DIALECTS: Final[Mapping[str, Dialect]] = {
    "tblite.ase.TBLite": Dialect(("charge",), ("multiplicity",), always=True, moments="unused", complete=True),
    "ase.calculators.orca.ORCA": Dialect(("charge",), ("mult",), always=True, moments="unused"),
    "ase.calculators.gaussian.Gaussian": Dialect(("charge",), ("mult",), always=True, moments="unused"),
    "ase.calculators.qchem.QChem": Dialect(("charge",), ("multiplicity",), always=True, moments="unused"),
    # With initial moments ASE's Psi4 ignores the multiplicity.
    "ase.calculators.psi4.Psi4": Dialect(
        ("charge",), ("multiplicity",), open_shell={"reference": "uhf"}, always=True, moments="harmful"
    ),
    "ase.calculators.turbomole.Turbomole": Dialect(("total charge",), ("multiplicity",), always=True, moments="unused"),
    "ase.calculators.cp2k.CP2K": Dialect(("charge",), ("multiplicity",), open_shell={"uks": True}, moments="unused"),
    "ase.calculators.nwchem.NWChem": Dialect(
        ("charge",), sums_moments=True, stated=(("dft", "mult"), ("nwpw", "mult"))
    ),
    "ase.calculators.mopac.MOPAC": Dialect(("charge",), sums_moments=True),
    "ase.calculators.vasp.Vasp": Dialect(("charge",), unpaired=("nupdown",), open_shell={"ispin": 2}),
    "ase.calculators.espresso.Espresso": Dialect(
        ("input_data", "system", "tot_charge"),
        unpaired=("input_data", "system", "tot_magnetization"),
        open_shell={"input_data.system.nspin": 2},
    ),
    "ase.calculators.openmx.OpenMX": Dialect(("charge",)),
    "gpaw.GPAW": Dialect(("charge",), holds_moments=True),
    "xtb.ase.calculator.XTB": Dialect(reads=("initial",), moments="unused"),
    "ase.calculators.dftd3.PureDFTD3": Dialect(blind=True),
    "dftd3.ase.DFTD3": Dialect(blind=True),
    "torch_dftd.torch_dftd3_calculator.TorchDFTD3Calculator": Dialect(blind=True),
}

ALIASES: Final[Mapping[str, str]] = {
    "ase.calculators.turbomole.turbomole.Turbomole": "ase.calculators.turbomole.Turbomole",
    "ase.calculators.vasp.vasp.Vasp": "ase.calculators.vasp.Vasp",
    "ase.calculators.openmx.openmx.OpenMX": "ase.calculators.openmx.OpenMX",
    "dftd3.ase.DFTD3Calculator": "dftd3.ase.DFTD3",
    "xtb.ase.XTB": "xtb.ase.calculator.XTB",
    "gpaw.calculator.GPAW": "gpaw.GPAW",
    "gpaw.new.ase_interface.GPAW": "gpaw.GPAW",
}

SPELLINGS: Final = ("charge", "total_charge"), ("multiplicity", "mult")
"""Keywords for charge and multiplicity of calculators that are not listed, used if the calculator declares them."""

UNPAIRED: Final = ("uhf", "nopen", "nupdown", "tot_magnetization", "fixed_spin_moment", "unpaired")
"""Arguments that mean 2S for every calculator."""

MEANINGS: Final[Mapping[str, frozenset[str]]] = {
    "charge": frozenset(
        [
            "charge",
            "totalcharge",
            "totcharge",
            "netcharge",
            "systemcharge",
            "scfsystemcharge",
            "molecularcharge",
            "moleculecharge",
            "molcharge",
            "formalcharge",
            "ioncharge",
            "chrg",
            "nelect",
            "nelectrons",
            "nelec",
            "numelectrons",
            "numberofelectrons",
        ]
    ),
    "multiplicity": frozenset(["multiplicity", "spinmultiplicity", "mult", "spinmult", "multip"]),
    "unpaired": frozenset(
        [
            "uhf",
            "nopen",
            "nupdown",
            "totmagnetization",
            "fixedspinmoment",
            "unpaired",
            "unpairedelectrons",
            "nunpaired",
            "numunpaired",
            "nunpairedelectrons",
        ]
    ),
    "spin": frozenset(["spin", "totalspin", "totspin", "spinstate"]),
}
"""Quantities that names of arguments mean (in lower case without separators), whether or not a calculator has them."""

RESTRICTED: Final[Mapping[str, JsonValue]] = {"nspin": 1, "ispin": 1, "spinpol": False, "uks": False, "spin": "none"}
"""Arguments that allow no unpaired electron."""


def is_known(path: str) -> bool:
    """True if the keywords of a calculator for charge and spin are known."""
    dotted = path.replace(":", ".")
    return ALIASES.get(dotted, dotted) in DIALECTS


def dialect(path: str, arguments: Mapping[str, JsonValue], names: Iterable[str]) -> Dialect:
    """Find how charge and spin are passed to a calculator.

    Args:
      path: import path of the ASE calculator.
      arguments: arguments of the calculator.
      names: keywords that the calculator declares, see `factories.keywords`.
    """
    dotted = path.replace(":", ".")
    known = DIALECTS.get(ALIASES.get(dotted, dotted))
    if dotted == "ase.calculators.dftd3.DFTD3" and "dft" not in arguments:
        return Dialect(blind=True)
    if known is not None:
        return known
    taken = {*names, *arguments}
    charge, multiplicity = (next((name for name in some if name in taken), None) for some in SPELLINGS)
    return Dialect(
        None if charge is None else (charge,),
        None if multiplicity is None else (multiplicity,),
        reads=("info",) if "fairchem" in dotted and arguments.get("task_name") == "omol" else (),
    )


def get(arguments: Mapping[str, JsonValue], path: Path) -> JsonValue:
    """Value of a nested argument, or None. The first name is case-sensitive, names inside sections are not."""
    first, *rest = path
    value: JsonValue = arguments.get(first)
    for name in rest:
        if not isinstance(value, dict):
            return None
        value = next((v for k, v in value.items() if k.lower() == name.lower()), None)
    return value


def put(arguments: Mapping[str, JsonValue], path: Path, value: JsonValue) -> dict[str, JsonValue]:
    """Copy the arguments and set a nested one; an existing spelling of a name inside a section is kept."""
    first, *rest = path
    if not rest:
        return {**arguments, first: value}
    section = arguments.get(first)
    inside = section if isinstance(section, dict) else {}
    name = next((k for k in inside if k.lower() == rest[0].lower()), rest[0])
    return {**arguments, first: put(inside, (name, *rest[1:]), value)}
