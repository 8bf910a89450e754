"""Reference engine that runs any ASE calculator in a separate process, possibly with another Python environment."""

import json
import time
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from pydantic import Field, JsonValue

from bayes_mlff.core.errors import DataError, EngineFailedError, EngineRetryError, EngineSetupError
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import GEOMETRY, Structure
from bayes_mlff.engines.calculator_engine import CalculatorEngine
from bayes_mlff.engines.calculator_settings import (
    RETRY_EXCEPTIONS,
    SETUP_EXCEPTIONS,
    CalculatorSettings,
    all_arguments,
    level_hash,
    root_package,
)
from bayes_mlff.engines.electrons import Told
from bayes_mlff.engines.engine import EngineResult, read_state, retry, with_geometry
from bayes_mlff.engines.moments import moment_remarks
from bayes_mlff.engines.worker.process import Mpi, WorkerProcess, child_environment, find_python

_SETUP: Final = frozenset(kind.__name__ for kind in SETUP_EXCEPTIONS)
_RETRY: Final = frozenset(kind.__name__ for kind in RETRY_EXCEPTIONS)
_PLAIN: Final = frozenset({"UnusableError", "FolderTakenError"})
"""Error classes of the child whose messages already name the setting."""


class WorkerSettings(CalculatorSettings):
    """An ASE calculator in a separate process.

    Relative paths in `arguments` and `output_file` start from the folder `engine` of the run directory, unless they
    name a file next to the configuration.
    """

    name: Literal["worker"] = Field(
        default="worker", description="Reference method: an ASE calculator in a process of its own."
    )
    python: str | None = Field(
        default=None,
        description="Path of the Python interpreter that has ASE and the calculator; null means the one of the run.",
    )
    timeout_s: float = Field(
        default=7200.0,
        gt=0.0,
        description="Longest time of a calculation, s; after it the process is killed and the label counts as failed.",
    )
    start_timeout_s: float = Field(
        default=120.0, gt=0.0, description="Longest time in which the process imports and sets up its calculator, s."
    )
    threads: int = Field(default=1, ge=1, description="Number of OpenMP and BLAS threads of the process.")
    environment: dict[str, str] = Field(
        default_factory=dict, description="Further environment variables of the process, by name."
    )
    carry_moments: bool = Field(
        default=True,
        description="Whether a new calculator starts from the magnetic moments of the last label instead of the "
        "initial ones.",
    )


class _Answer(NamedTuple):
    label: Label
    structure: Structure  # as evaluated
    moments: tuple[float, ...] | None  # [n] μB
    note: str


class WorkerEngine(CalculatorEngine):
    """An `Engine` whose calculator may crash, hang or print without harm to this process.

    Of the calculator's state only the magnetic moments of the last label are saved. A density is not saved, so that
    labels after a restart agree only within the convergence criteria.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        directory: Path | None = None,
        *,
        base: Path | None = None,
        probe: Path | None = None,
        mpi: Mpi | None = None,
    ):
        """Find the interpreter; the process starts with the first call.

        Args:
          settings: settings of calculator and process.
          directory: run directory; as long as it does not exist, the engine works in a temporary folder.
          base: folder of the configuration, whose modules and files the settings may name.
          probe: file with a function `problem(arguments, numbers)` that runs in the child; it returns a message if
            these elements cannot be calculated, else None.
          mpi: start several MPI processes for each label, with a calculator that distributes its work over them;
            they end after each label.

        Raises:
          EngineSetupError: if the interpreter does not exist.
        """
        super().__init__(settings, directory, base)
        self._settings: WorkerSettings = settings
        self._python = find_python(settings.python)
        self._probe, self._mpi = probe, mpi
        self._process: WorkerProcess | None = None
        self._hash: str | None = None
        self._names: dict[str, list[str]] = {}
        self._fresh = False
        self._start_from: tuple[float, ...] | None = settings.initial_magmoms  # [n] μB, for a new calculator
        self._last_told: dict[str, Any] | None = None
        self._moments: tuple[float, ...] | None = None

    @property
    def settings_hash(self) -> str:
        """See `Engine.settings_hash`; the same as for this calculator in `AseEngine`. Starts the child if necessary."""
        if self._hash is None:
            self._child()
            assert self._hash is not None
        return self._hash

    @property
    def description(self) -> str:
        """See `Engine.description`."""
        return f"{super().description}, in a process of its own"

    def set_initial_moments(self, moments: tuple[float, ...] | None) -> None:
        """Replace `initial_magmoms`; for engines that derive them from the first structure."""
        self._initial_magmoms = self._start_from = moments

    def check(self, structure: Structure) -> None:
        """See `Engine.check`: makes the calculator and checks which properties it implements."""
        told = self._tell_first(structure)
        self._start_from = told.moments
        reply = self._set_up(
            "check",
            self._child(),
            {
                "arguments": told.arguments,
                "moments": self._start_moments(structure, told),
                "probe": None if self._probe is None else str(self._probe),
                "numbers": structure.numbers.tolist(),
            },
        )
        if reply["problem"] is not None:
            raise EngineSetupError(reply["problem"])
        self._refuse_without(reply["properties"], structure)

    def label(self, structure: Structure) -> EngineResult:
        """See `Engine.label`; the energy is the free energy if there is one, since forces are its derivative."""
        start = time.perf_counter()
        told = self._tell(structure, self._settings.arguments)
        self._start_from = told.moments
        answer, reasons = retry(
            lambda number: self._attempt(structure, number),
            1 + len(self._settings.retries),
            description=self.description,
        )
        fresh_guess = self._moments is None or len(self._moments) != len(structure.numbers)
        before = self._start_from if fresh_guess else self._moments
        remarks = moment_remarks(before, answer.moments, structure, jumps=not fresh_guess)
        self._moments = answer.moments
        seconds = time.perf_counter() - start
        return EngineResult(
            answer.label,
            answer.structure,
            True,
            seconds,
            len(reasons) + 1,
            (*reasons, answer.note, *remarks),
            told.settled,
        )

    def once(self, structure: Structure, changes: dict[str, JsonValue]) -> Label:
        """Label once, with a calculator that has other arguments and is not used again.

        Raises:
          EngineFailedError: if the calculation fails.
          EngineSetupError: if the calculator can never work with these arguments.
        """
        try:
            told = self._tell(structure, {**self._settings.arguments, **changes})
            return self._evaluate(structure, told, fresh=True, moments=self._start_moments(structure, told)).label
        except EngineRetryError as error:
            raise EngineFailedError(f"{self.description} with {changes}: {error}") from error

    def save_state(self) -> bytes | None:
        """Save the magnetic moments of the last label; None without initial moments."""
        if self._start_from is None or self._moments is None:
            return None
        return json.dumps({"settings_hash": self.settings_hash, "moments": self._moments}).encode()

    def restore_state(self, state: bytes | None) -> None:
        """Start with a new calculator, and with the saved moments if there are any.

        Raises:
          DataError: if the state belongs to another engine or level of theory.
        """
        self._fresh = True
        self._moments = None
        if state is None:
            return
        saved = read_state(state, {"settings_hash", "moments"})
        if saved["settings_hash"] != self.settings_hash:
            raise DataError("engine state: saved at another level of theory or by another version of the calculator")
        self._moments = tuple(saved["moments"])

    def close(self) -> None:
        """End the child and all processes that it started."""
        process, self._process = self._process, None
        if process is not None:
            process.end(orderly=True)
        self._folder.close()

    def _keywords(self) -> dict[str, list[str]]:
        """Declared keywords, from the child, which is started if necessary."""
        self._child()
        return self._names

    def _start_moments(self, structure: Structure, told: Told) -> tuple[float, ...] | None:
        """Magnetic moments, μB, that a new calculator starts from."""
        carried = self._moments if self._settings.carry_moments and told.carries else None
        return carried if carried is not None and len(carried) == len(structure.numbers) else told.moments

    def _attempt(self, structure: Structure, number: int) -> _Answer:
        """One attempt; from the second attempt on with a new calculator and the initial moments."""
        told = self._tell(structure, all_arguments(self._settings)[number])
        fresh = number > 0 or self._fresh or not self._settings.reuse_calculator
        moments = told.moments if number > 0 else self._start_moments(structure, told)
        answer = self._evaluate(structure, told, fresh=fresh, moments=moments)
        self._fresh = number > 0  # the next label starts with the first solver settings again
        return answer

    def _evaluate(self, structure: Structure, told: Told, *, fresh: bool, moments: tuple[float, ...] | None) -> _Answer:
        geometry = {name: getattr(structure, name).tolist() for name in GEOMETRY}
        on_atoms = {"charges": told.charges, "tags": told.tags, "info": told.info}
        message = {
            "op": "label",
            "arguments": told.arguments,
            "moments": moments,
            # A calculator does not notice changes of charges, tags or `info` of its atoms.
            "fresh": fresh or self._last_told not in (None, on_atoms),
            "geometry": geometry,
            "told": on_atoms,
            "stress": self._wants_stress(structure),
        }
        self._last_told = on_atoms
        reply = self._child().ask(message, self._settings.timeout_s)
        if "error" in reply:
            raise self._error(reply)
        if reply["complaint"] is not None:
            raise EngineRetryError(reply["complaint"])
        if reply["geometry"] is None:
            raise EngineSetupError(f"{self.description}: the calculator does not report which geometry it evaluated")
        return self._read(reply, structure)

    def _read(self, reply: dict[str, Any], asked: Structure) -> _Answer:
        """Convert JSON to arrays; `verified_label` checks their shapes and values."""
        label = self._label_of(reply)
        carries = self._start_from is not None and np.ndim(reply["moments"]) == 1
        try:
            moments = tuple(float(moment) for moment in reply["moments"]) if carries else None
        except (TypeError, ValueError) as error:
            raise EngineFailedError(f"{self.description}: unusable result: {error}") from error
        note = f"energy is the calculator's {reply['energy_name']}"
        return _Answer(label, with_geometry(asked, **reply["geometry"]), moments, note)

    def _error(self, reply: dict[str, Any]) -> Exception:
        """Turn an exception of the calculator into an error of this package, by the names of its classes."""
        kinds, text = reply["kinds"], f"{reply['kinds'][0]}: {reply['error']}"
        if _PLAIN.intersection(kinds):
            return EngineSetupError(reply["error"])
        if reply["making"] or _SETUP.intersection(kinds):
            return EngineSetupError(f"{self.description}: {text}")
        named = {path.replace(":", ".").rpartition(".")[2] for path in self._settings.retry_exceptions}
        own = reply["root"] == root_package(self._settings.calculator)
        if own or (_RETRY | named).intersection(kinds):
            return EngineRetryError(text)
        return EngineFailedError(f"{self.description}: {text}; {' '.join(reply['trace'].split())}")

    def _child(self) -> WorkerProcess:
        """The running child, or a new child that has imported the calculator."""
        directory = self._folder.path()
        if self._process is not None and self._process.usable and self._process.directory == directory:
            return self._process
        if self._process is not None:
            self._process.end(orderly=True)
        s = self._settings
        extra = s.environment if self._mpi is None else {**self._mpi.environment, **s.environment}
        process = WorkerProcess(self._python, child_environment(self._python, s.threads, extra), directory, self._mpi)
        self._process = process
        start = {"calculator": s.calculator, "output": s.output_check, "base": self._base}
        reply = self._set_up("start", process, {**start, "attempts": all_arguments(s)})
        self._names = reply["names"]
        found = level_hash(s, reply["ase"], reply["package"])
        if self._hash is not None and self._hash != found:
            raise EngineSetupError(f"{self.description}: ASE or the calculator changed its version during the run")
        self._hash = found
        return process

    def _set_up(self, op: str, process: WorkerProcess, message: dict[str, Any]) -> dict[str, Any]:
        """Send a set-up request; every failure becomes an EngineSetupError."""
        try:
            reply = process.ask({"op": op, **message}, self._settings.start_timeout_s)
        except EngineRetryError as error:
            raise EngineSetupError(f"{self.description}, {self._python}: {error}") from error
        if "error" not in reply:
            return reply
        if _PLAIN.intersection(reply["kinds"]):
            raise EngineSetupError(f"{reply['error']}{self._elsewhere(reply['error'])}")
        text = (
            f"engine.calculator: {self._settings.calculator} in {self._python}: {reply['kinds'][0]}: {reply['error']}"
        )
        if op == "check":
            text += f"; engine.arguments: {self._settings.arguments}"
        raise EngineSetupError(text)

    def _elsewhere(self, text: str) -> str:
        """Name of the interpreter as the end of a message, if the message lacks it."""
        return "" if self._python in text or self._settings.python is None else f" (in {self._python})"
