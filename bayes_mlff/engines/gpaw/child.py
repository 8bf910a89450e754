"""Checks of a configuration that need GPAW; executed by its path in the process that runs GPAW.

This file imports nothing of this package.
"""

import importlib
from typing import Any, Dict, List, Optional  # noqa: UP035 (Python 3.8)


def problem(arguments: Dict[str, Any], numbers: List[int]) -> Optional[str]:  # noqa: UP006, UP045
    """Return why structures of these elements cannot be calculated; None if they can."""
    functional = arguments["xc"]
    try:
        data_set = importlib.import_module("gpaw.xc").XC(functional).get_setup_name()
    # Without libxc GPAW says so by a NameError or an AssertionError.
    except (NameError, AssertionError, ValueError, KeyError) as error:
        return (
            f"engine.xc: got {functional!r}; allowed: a functional that GPAW knows ({type(error).__name__}: {error}); "
            "built without libxc it has LDA, PBE, RPBE and revPBE only"
        )
    symbols = importlib.import_module("ase.data").chemical_symbols
    setup_data = importlib.import_module("gpaw.setup_data").SetupData
    for number in sorted(set(numbers)):
        symbol = symbols[number]
        kind = arguments.get("setups", {}).get(symbol, "").partition(":")[0]
        try:
            setup_data(symbol, data_set, kind or "paw")
        except FileNotFoundError:
            name = ".".join(part for part in (symbol, kind, data_set) if part)
            return (
                f"engine: GPAW has no PAW data set {name}; pip install gpaw-data in its environment, or put the set "
                "into a folder named in GPAW_SETUP_PATH (engine.environment), or choose another engine.xc"
            )
    return None
