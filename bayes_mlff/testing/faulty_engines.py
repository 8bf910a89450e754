"""Reference methods that fail as planned, to test how a run reacts.

`FaultyCalculator` is an ASE calculator for configurations, inside the process of the run or in a worker; it also counts
the calculations. `FaultyEngine` wraps an engine and can return wrong results that an ASE calculator cannot.
"""

import hashlib
import importlib
import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import ase
import numpy as np
from ase.calculators.calculator import CalculationFailed, Calculator, CalculatorSetupError, all_changes

from bayes_mlff.core.errors import EngineFailedError, EngineRetryError, EngineSetupError
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.engine import Engine, EngineResult

CALLS: Final = "calls.jsonl"
START: Final = "FAULTY_CALCULATOR_START"
"""Environment variable: where relative folders of the calculator begin, if not where the process works."""
FAULTS: Final = "faults.json"

CalculatorFault = Literal["crash", "hang", "nan", "shape", "stale", "unconverged", "failed", "licence"]
EngineFault = Literal["crash", "hang", "nan", "shape", "stale", "unconverged", "failed", "retry", "licence"]


class FaultyCalculator(Calculator):
    """Wrap an ASE calculator: fail at the calls named in one file, and log all calls to another.

    Both files are in one folder: `faults.json` maps numbers of calls, counted over all processes from 1 ("*": all
    others), to faults; it is read at every call and may be missing. `calls.jsonl` gets a line when a call begins and
    one when it has an answer: number, geometry, done.

        engine: {name: ase, calculator: 'bayes_mlff.testing.faulty_engines:FaultyCalculator',
                 arguments: {calculator: 'ase.calculators.emt:EMT', delay_s: 0.1}}

    Faults: `crash` (SIGSEGV), `hang` (an hour), `nan` (in a force), `shape` (a force too few), `stale` (the numbers and
    geometry of the call before), `unconverged` and `failed` (CalculationFailed), `licence` (CalculatorSetupError).
    """

    def __init__(
        self, calculator: str, arguments: Mapping[str, Any] | None = None, folder: str = ".", delay_s: float = 0.0
    ):
        """Prepare a calculator.

        Args:
          calculator: import path of the one that calculates, such as 'ase.calculators.emt:EMT'.
          arguments: of that one.
          folder: of the two files, from `START` or else from where the process works.
          delay_s: how long a call takes at least, s.
        """
        super().__init__()
        module, _, name = calculator.partition(":")
        self._inner = getattr(importlib.import_module(module), name)(**(arguments or {}))
        self._folder, self._delay_s = Path(os.environ.get(START, ".")) / folder, delay_s
        self._stale = ""  # geometry that received old results
        self._previous: tuple[ase.Atoms, dict[str, Any]] | None = None
        self.implemented_properties = list(self._inner.implemented_properties)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Calculate, or fail as planned."""
        assert atoms is not None
        geometry = fingerprint(atoms.positions)
        if geometry == self._stale and self._previous is not None:  # called again, as the old geometry differs
            self.atoms, self.results = self._previous
            return
        number = 1 + sum(not call["done"] for call in calls(self._folder))
        self._log(call=number, geometry=geometry, done=False)
        time.sleep(self._delay_s)
        fault = self._fault(number)
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "hang":
            time.sleep(3600.0)
        if fault in ("unconverged", "failed"):
            raise CalculationFailed("SCF not converged" if fault == "unconverged" else "planned failure")
        if fault == "licence":
            raise CalculatorSetupError("no licence found")
        if fault == "stale" and self._previous is not None:
            (self.atoms, self.results), self._stale = self._previous, geometry
            return
        super().calculate(atoms, properties, system_changes)
        self._inner.calculate(self.atoms, list(properties), system_changes)
        self.results = {name: np.array(value) for name, value in self._inner.results.items()}
        if fault == "nan":
            self.results["forces"][0, 0] = np.nan
        if fault == "shape":
            self.results["forces"] = self.results["forces"][:-1]
        self._previous = self.atoms, self.results
        self._log(call=number, geometry=geometry, done=True)

    def _fault(self, number: int) -> str | None:
        path = self._folder / FAULTS
        planned = json.loads(path.read_text()) if path.exists() else {}
        return planned.get(str(number), planned.get("*"))

    def _log(self, **line: Any) -> None:
        with (self._folder / CALLS).open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def fingerprint(positions: np.ndarray) -> str:
    """Unique name of a geometry [n, 3] Å."""
    return hashlib.sha256(np.ascontiguousarray(positions, np.float64).tobytes()).hexdigest()[:16]


def calls(folder: Path) -> list[dict[str, Any]]:
    """Lines that a `FaultyCalculator` has logged, without an incomplete last line."""
    path = folder / CALLS
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def plan(folder: Path, faults: Mapping[int | str, CalculatorFault]) -> None:
    """Write the planned faults of a `FaultyCalculator`, by the number of the call; nothing for an empty mapping."""
    (folder / FAULTS).write_text(json.dumps({str(number): fault for number, fault in faults.items()}))


class FaultyEngine:
    """An engine that fails, or returns wrong results, at some of its calls.

    Faults: `crash` (RuntimeError), `hang`, `nan`, `shape`, `stale` (the answer before, geometry included),
    `unconverged` (says so, but gives numbers), `failed`, `retry`, `licence` (the three errors of engines).
    """

    def __init__(self, engine: Engine, faults: Mapping[int, EngineFault], *, hang_s: float = 3600.0):
        """Wrap `engine`; `faults` are named by the number of the call, from 1."""
        self._engine, self._faults, self._hang_s = engine, dict(faults), hang_s
        self._previous: EngineResult | None = None
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        """Forward everything but labels to the wrapped engine."""
        return getattr(self._engine, name)

    def __enter__(self) -> "FaultyEngine":
        """Return this engine."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the engine."""
        self._engine.close()

    def label(self, structure: Structure) -> EngineResult:
        """See `Engine.label`; or the fault of this call."""
        self.calls += 1
        fault = self._faults.get(self.calls)
        match fault:
            case "crash":
                raise RuntimeError("planned crash")
            case "failed":
                raise EngineFailedError("planned failure")
            case "retry":
                raise EngineRetryError("planned failure that another try may cure")
            case "licence":
                raise EngineSetupError("no licence found")
            case "hang":
                time.sleep(self._hang_s)
            case "stale" if self._previous is not None:
                return self._previous
        result = self._engine.label(structure)
        self._previous = result
        forces = result.label.forces.copy()
        match fault:
            case "nan":
                forces[0, 0] = np.nan
            case "shape":
                forces = forces[:-1]
        return result._replace(label=result.label._replace(forces=forces), converged=fault != "unconverged")
