"""What became of a request for a label: a result, or an error as a value, which survives pickling and files."""

import hashlib
import json
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from bayes_mlff.core.errors import DataError, EngineError, EngineFailedError, EngineRetryError, EngineSetupError
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import GEOMETRY, Structure
from bayes_mlff.engines.engine import EngineResult, Settled, with_geometry

Kind = Literal["label", "failed", "setup", "lost"]

_ERRORS: Final[dict[str, type[EngineError]]] = {
    "failed": EngineFailedError,
    "setup": EngineSetupError,
    "lost": EngineRetryError,
}


class Outcome(NamedTuple):
    """What became of one request.

    A label and a geometry that the engine cannot label (`failed`) were paid for and are kept. `setup` says that nothing
    can be labelled as configured, so that nothing was calculated. `lost` says that the calculation ended without an
    answer, for example because its process was killed.
    """

    key: str  # see `key_of`
    kind: Kind
    result: EngineResult | None  # of a label
    message: str  # of an error
    seconds: float  # wall clock of the calculation, paid for also if it failed
    where: str  # host and process id
    remarks: tuple[str, ...] = ()  # what a log should say besides

    @property
    def paid(self) -> bool:
        """True if the calculation has an answer, which another calculation would only repeat."""
        return self.kind in ("label", "failed")

    def value(self) -> EngineResult:
        """The result.

        Raises:
          EngineFailedError: this geometry has no label.
          EngineSetupError: the engine can never work as configured.
          EngineRetryError: the calculation was lost; it may succeed when it is repeated.
        """
        if self.result is not None:
            return self.result
        raise _ERRORS[self.kind](self.message)


def key_of(settings_hash: str, structure: Structure) -> str:
    """Identify a label: 64 hexadecimal digits that depend on the method and on everything that it reads.

    Args:
      settings_hash: `Engine.settings_hash`.
      structure: what is labelled; of it count geometry, charge, multiplicity, initial moments and charges, tags and
        remarks, numbers to the last bit. Masses, held coordinates and names of atoms do not count.
    """
    state = structure.electronic
    digest = hashlib.sha256(f"label 1 {settings_hash}".encode())
    arrays = {name: getattr(structure, name) for name in GEOMETRY}
    arrays |= {"moments": state.moments, "charges": state.charges, "tags": state.tags}
    for name, array in arrays.items():
        if array is not None:
            exact = np.ascontiguousarray(array, np.int64 if name in ("numbers", "pbc", "tags") else np.float64)
            digest.update(f"{name} {exact.shape}".encode() + exact.tobytes())
    stated = [state.charge, state.multiplicity, sorted(state.info.items())]
    digest.update(json.dumps(stated).encode())
    return digest.hexdigest()


def to_bytes(outcome: Outcome) -> bytes:
    """An outcome as a file: its checksum on the first line, then JSON with every number exact."""
    values = outcome._asdict()
    result = outcome.result
    if result is not None:
        label = result.label
        values["result"] = {
            "energy": label.energy,
            "forces": label.forces.tolist(),
            "stress": None if label.stress is None else label.stress.tolist(),
            "evaluated": {name: getattr(result.structure, name).tolist() for name in GEOMETRY},
            "converged": result.converged,
            "seconds": result.seconds,
            "attempts": result.attempts,
            "diagnostics": result.diagnostics,
            "settled": result.settled,
        }
    text = json.dumps(values).encode()
    return f"{_header(text)}\n".encode() + text


def from_bytes(content: bytes, asked: Structure) -> Outcome:
    """Read what `to_bytes` wrote.

    Args:
      content: the file.
      asked: the structure for which the label was requested.

    Raises:
      DataError: if it is torn, damaged or anything else.
    """
    if not is_whole(content):
        raise DataError("its content does not match its checksum")
    values: dict[str, Any] = json.loads(content.partition(b"\n")[2])
    found = values.pop("result")
    result = None
    if found is not None:
        stress = None if found["stress"] is None else np.array(found["stress"], np.float64)
        forces = np.array(found["forces"], np.float64).reshape(-1, 3)
        result = EngineResult(
            Label(found["energy"], forces, stress),
            with_geometry(asked, **found["evaluated"]),
            found["converged"],
            found["seconds"],
            found["attempts"],
            tuple(found["diagnostics"]),
            Settled(*found["settled"]),
        )
    return Outcome(**{**values, "result": result, "remarks": tuple(values["remarks"])})


def is_whole(content: bytes) -> bool:
    """True if this is all that `to_bytes` wrote."""
    header, _, text = content.partition(b"\n")
    return header == _header(text).encode()


def _header(text: bytes) -> str:
    return f"bayes_mlff label 1 sha256:{hashlib.sha256(text).hexdigest()}"
