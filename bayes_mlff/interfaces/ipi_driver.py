"""i-PI asks a trained ensemble for forces, over its socket.

The protocol is that of ASE's `SocketClient`, which answers with energy, forces and virial in atomic units. What ASE's
client cannot send is i-PI's extra string; here it is JSON, in hartree and bohr:

- `energy_sigma` and, where it costs no more (see `EnsembleCalculator`), `forces_sigma` [3n]: standard deviations;
- `probability_above_threshold`, if the ensemble has a threshold;
- `committee_pot` [c], `committee_force` [c][3n], `committee_virial` [c][9] if asked for: predictions of the c samples,
  under the names that i-PI's `ffcommittee` reads with `<parse_json>`.

A value that is not finite is null. i-PI does not send which elements its atoms are: their order must be that of the
structure that the driver was started with.
"""

import json
import time
from typing import Any, Final

import ase
import numpy as np
from ase.calculators.socketio import IPIProtocol, SocketClient
from ase.stress import voigt_6_to_full_3x3_stress

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.ensemble.calculator import PROBABILITY, EnsembleCalculator

DEFAULT_PORT: Final = 31415
RETRY_S: Final = 0.1
SOCKETS: Final = "/tmp/ipi_"
"""Begin of the paths of UNIX sockets, as i-PI and ASE have it."""


def drive(
    atoms: ase.Atoms,
    calculator: EnsembleCalculator,
    *,
    unixsocket: str | None = None,
    host: str = "localhost",
    port: int = DEFAULT_PORT,
    committee: bool = False,
    wait_s: float = 60.0,
) -> None:
    """Answer an i-PI server until it ends.

    Args:
      atoms: elements, periodic directions, charge and spin; positions and cell come from the server.
      calculator: of the ensemble.
      unixsocket: address of a UNIX socket, the file `/tmp/ipi_ADDRESS`; None: an INET socket.
      host: address of the server, for an INET socket.
      port: its port.
      committee: send the predictions of all samples, which i-PI's `ffcommittee` needs.
      wait_s: how long to wait for the server to open its socket, s.

    Raises:
      ConfigError: if there is no server.
      DataError: if it sends another number of atoms, or structures that the ensemble cannot predict.
    """
    where = f"{SOCKETS}{unixsocket}" if unixsocket is not None else f"{host}:{port}"
    client = _connect(
        where, {"unixsocket": unixsocket} if unixsocket is not None else {"host": host, "port": port}, wait_s
    )
    asked = atoms.copy()
    asked.calc = calculator
    client.protocol = _Protocol(client.protocol.socket, asked, committee=committee)
    client.run(asked, use_stress=bool(np.all(atoms.pbc)))


def _connect(where: str, address: dict[str, Any], wait_s: float) -> SocketClient:
    begin = time.monotonic()
    while True:
        try:
            return SocketClient(**address)
        except OSError as error:  # not yet there, or nobody listens
            if time.monotonic() - begin > wait_s:
                raise ConfigError("unixsocket", f"{where} ({error})", "the socket of a server that runs") from error
        time.sleep(RETRY_S)


class _Protocol(IPIProtocol):
    """The protocol with an extra string."""

    def __init__(self, socket: Any, atoms: ase.Atoms, *, committee: bool):
        super().__init__(socket)
        self._atoms, self._committee = atoms, committee

    def recvposdata(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cell, inverse, positions = super().recvposdata()
        if len(positions) != len(self._atoms):
            raise DataError(
                f"i-PI: got {len(positions)} atoms; allowed: the {len(self._atoms)} of the driver's structure"
            )
        return cell, inverse, positions

    def sendforce(self, energy: float, forces: np.ndarray, virial: np.ndarray, morebytes: Any = None) -> None:
        assert self._atoms.calc is not None
        if self._committee:
            self._atoms.calc.get_property("chain_forces", self._atoms)
        volume = self._atoms.get_volume() if np.all(self._atoms.pbc) else None
        text = extras(self._atoms.calc.results, volume, committee=self._committee)
        super().sendforce(energy, forces, virial, np.frombuffer(text.encode(), np.byte))


def extras(results: dict[str, Any], volume: float | None, *, committee: bool) -> str:
    """The extra string, see the module.

    Args:
      results: of the calculator.
      volume: of the cell, Å³; None without one.
      committee: with the predictions of all samples.
    """
    force = units.BOHR / units.HARTREE
    sent: dict[str, Any] = {
        "energy_sigma": results["energy_sigma"] / units.HARTREE,
    }
    if "forces_sigma" in results:
        sent["forces_sigma"] = force * results["forces_sigma"].ravel()
    if PROBABILITY in results:
        sent[PROBABILITY] = results[PROBABILITY]
    if committee:
        chains = len(results["chain_energy"])
        virials = np.zeros((chains, 3, 3))
        if volume is not None:
            virials = -volume * np.array([voigt_6_to_full_3x3_stress(s) for s in results["chain_stress"]])
        sent |= {
            "committee_pot": results["chain_energy"] / units.HARTREE,
            "committee_force": force * results["chain_forces"].reshape(chains, -1),
            "committee_virial": virials.reshape(chains, 9) / units.HARTREE,
        }
    return json.dumps({name: _plain(value) for name, value in sent.items()}, allow_nan=False)


def _plain(value: Any) -> Any:
    """Lists of numbers, with null in the place of what is not finite."""
    array = np.asarray(value, np.float64)
    plain = array.astype(object)
    plain[~np.isfinite(array)] = None
    return plain.tolist()
