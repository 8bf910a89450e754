"""By which keywords calculators are told charge and spin; of ASE 3.29 and tblite 0.8, read in their sources."""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

from pydantic import JsonValue

Path = tuple[str, ...]


class Dialect(NamedTuple):
    """How one calculator is told charge and spin."""

    charge: Path | None = None  # keyword of the total charge, e; nested ones with their sections
    multiplicity: Path | None = None  # keyword of 2S + 1
    unpaired: Path | None = None  # keyword of 2S
    open_shell: Mapping[str, JsonValue] = {}  # further arguments where 2S is not 0, unless they are given
    always: bool = False  # the multiplicity is told even where nobody states it, since the default is none for all
    sums_moments: bool = False  # 2S is the sum of the initial moments, and there is no keyword for it
    holds_moments: bool = False  # GPAW: the sum of the initial moments is kept if the occupations say so
    moments: Literal["used", "unused", "harmful"] = "used"  # what the calculator makes of initial moments
    stated: tuple[Path, ...] = ()  # other places where 2S + 1 may be stated
    blind: bool = False  # a correction to another calculator, which charge and spin do not concern
    reads: tuple[str, ...] = ()  # see `CalculatorSettings.reads`
    complete: bool = False  # its default parameters are all that it takes; others it drops without a word


DIALECTS: Final[Mapping[str, Dialect]] = {
    "tblite.ase.TBLite": Dialect(("charge",), ("multiplicity",), always=True, moments="unused", complete=True),
    "ase.calculators.orca.ORCA": Dialect(("charge",), ("mult",), always=True, moments="unused"),
    "ase.calculators.gaussian.Gaussian": Dialect(("charge",), ("mult",), always=True, moments="unused"),
    "ase.calculators.qchem.QChem": Dialect(("charge",), ("multiplicity",), always=True, moments="unused"),
    # With initial moments ASE's Psi4 forgets the multiplicity.
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
"""Keywords of charge and multiplicity by which a calculator that is not listed is told, if it says that it has them."""

UNPAIRED: Final = ("uhf", "nopen", "nupdown", "tot_magnetization", "fixed_spin_moment", "unpaired")
"""Arguments that state 2S, whatever the calculator."""

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
"""What arguments mean, by their names in lower case without separators, whether a calculator takes them or not."""

RESTRICTED: Final[Mapping[str, JsonValue]] = {"nspin": 1, "ispin": 1, "spinpol": False, "uks": False, "spin": "none"}
"""Arguments that allow no unpaired electron."""


def is_known(path: str) -> bool:
    """True if it is known by which keywords a calculator is told charge and spin."""
    dotted = path.replace(":", ".")
    return ALIASES.get(dotted, dotted) in DIALECTS


def dialect(path: str, arguments: Mapping[str, JsonValue], names: Iterable[str]) -> Dialect:
    """How a calculator is told charge and spin.

    Args:
      path: import path of the ASE calculator.
      arguments: of the calculator.
      names: keywords that the calculator says it takes, see `factories.keywords`.
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
    """The value of a nested argument; None if it is not there. Case counts for the first name, not within sections."""
    first, *rest = path
    value: JsonValue = arguments.get(first)
    for name in rest:
        if not isinstance(value, dict):
            return None
        value = next((v for k, v in value.items() if k.lower() == name.lower()), None)
    return value


def put(arguments: Mapping[str, JsonValue], path: Path, value: JsonValue) -> dict[str, JsonValue]:
    """A copy of the arguments with a nested one set; of names in sections, the spelling that is there is kept."""
    first, *rest = path
    if not rest:
        return {**arguments, first: value}
    section = arguments.get(first)
    inside = section if isinstance(section, dict) else {}
    name = next((k for k in inside if k.lower() == rest[0].lower()), rest[0])
    return {**arguments, first: put(inside, (name, *rest[1:]), value)}
