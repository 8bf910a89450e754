"""The driver of i-PI answers a server that speaks the protocol byte by byte, and that of ASE."""

import contextlib
import json
import math
import socket
import struct
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.socketio import SocketIOCalculator

from bayes_mlff.core import units
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.interfaces.ipi_driver import drive, extras

STRAIN = 1e-4


class Gone(Exception):  # noqa: N818
    """The driver has closed the connection."""


class Server:
    """A server of one client: sends structures in bohr, reads what comes back in atomic units."""

    def __init__(self, listening):
        self.listening = listening
        listening.settimeout(30.0)

    def __enter__(self):
        self.client, _ = self.listening.accept()
        self.client.settimeout(60.0)
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.client.sendall(b"EXIT".ljust(12))
        self.client.close()
        self.listening.close()

    def read(self, size):
        found = b""
        while len(found) < size:
            received = self.client.recv(size - len(found))
            if not received:
                raise Gone
            found += received
        return found

    def ask(self, positions, cell):
        self.client.sendall(b"STATUS".ljust(12))
        assert self.read(12).strip() == b"READY"
        content = b"POSDATA".ljust(12) + np.ascontiguousarray(cell.T).tobytes()
        content += np.ascontiguousarray(np.linalg.inv(cell).T).tobytes()
        self.client.sendall(content + struct.pack("<i", len(positions)) + positions.tobytes())
        self.client.sendall(b"STATUS".ljust(12))
        assert self.read(12).strip() == b"HAVEDATA"
        self.client.sendall(b"GETFORCE".ljust(12))
        assert self.read(12).strip() == b"FORCEREADY"
        (energy,), (number,) = struct.unpack("<d", self.read(8)), struct.unpack("<i", self.read(4))
        forces = np.frombuffer(self.read(24 * number)).reshape(-1, 3)
        virial = np.frombuffer(self.read(72)).reshape(3, 3)
        (size,) = struct.unpack("<i", self.read(4))
        return energy, forces, virial, json.loads(self.read(size))


@contextlib.contextmanager
def driven(atoms, calculator, inet=False, **options):
    """A server whose driver works in a thread; what the driver raised is raised."""
    name, raised = f"test_{uuid.uuid4().hex[:8]}", []
    listening = socket.socket(socket.AF_INET if inet else socket.AF_UNIX)
    listening.bind(("localhost", 0) if inet else f"/tmp/ipi_{name}")
    where = {"port": listening.getsockname()[1]} if inet else {"unixsocket": name}
    listening.listen()

    def work():
        try:
            drive(atoms, calculator, **where, **options)
        except Exception as error:  # noqa: BLE001 (for the test)
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with Server(listening) as server:
            yield server
    finally:
        thread.join(timeout=30.0)
        assert not thread.is_alive()
        if not inet:
            Path(f"/tmp/ipi_{name}").unlink()
        if raised:
            raise raised[0]


def energy_of(atoms, calculator):
    calculator.calculate(atoms)
    return calculator.results["energy"]


@pytest.mark.parametrize("inet", [False, True])
def test_a_molecule_is_answered_in_hartree_and_bohr(molecule, calculator, inet):
    start = molecule.copy()
    start.positions += 7.0  # positions come from the server alone
    with driven(start, calculator, inet) as server:
        energy, forces, virial, extra = server.ask(molecule.positions / units.BOHR, 50.0 * np.eye(3))
    calculator.calculate(molecule)
    wanted = calculator.results
    assert energy * units.HARTREE == pytest.approx(wanted["energy"], rel=1e-7)
    np.testing.assert_allclose(forces * units.HARTREE / units.BOHR, wanted["forces"], rtol=1e-6, atol=1e-9)
    assert not np.any(virial)
    assert sorted(extra) == ["energy_sigma", "forces_sigma", "probability_above_threshold"]
    assert extra["energy_sigma"] * units.HARTREE == pytest.approx(wanted["energy_sigma"], rel=1e-6)
    sigma = np.reshape(extra["forces_sigma"], (-1, 3)) * units.HARTREE / units.BOHR
    np.testing.assert_allclose(sigma, wanted["forces_sigma"], rtol=1e-6)


def test_the_virial_of_a_crystal_is_the_derivative_of_its_energy(crystal, calculator):
    with driven(crystal, calculator, committee=True) as server:
        energy, _, virial, extra = server.ask(crystal.positions / units.BOHR, crystal.cell.array / units.BOHR)
    slopes = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            ends = []
            for sign in (-1.0, 1.0):
                strain = np.eye(3)
                strain[i, j] += sign * STRAIN / 2
                strain[j, i] += sign * STRAIN / 2
                strained = crystal.copy()
                strained.set_cell(crystal.cell.array @ strain, scale_atoms=True)
                ends.append(energy_of(strained, calculator))
            slopes[i, j] = (ends[1] - ends[0]) / (2.0 * STRAIN)
    np.testing.assert_allclose(virial * units.HARTREE, -slopes, rtol=1e-5, atol=1e-5)
    assert np.mean(extra["committee_pot"]) == pytest.approx(energy, rel=2e-8)  # ASE's constants are those of 2014
    np.testing.assert_allclose(np.mean(extra["committee_virial"], axis=0).reshape(3, 3), virial, rtol=1e-6, atol=1e-9)
    assert np.shape(extra["committee_force"]) == (2, 15)


def test_the_server_of_ase_gets_the_same(crystal, calculator):
    name, raised = f"test_{uuid.uuid4().hex[:8]}", []
    with SocketIOCalculator(unixsocket=name, timeout=60.0) as server:
        thread = threading.Thread(target=lambda: raised.append(drive(crystal, calculator, unixsocket=name)))
        thread.start()
        asked = crystal.copy()
        asked.calc = server
        found = asked.get_potential_energy(), asked.get_forces(), asked.get_stress()
        server.close()
        thread.join(timeout=30.0)
    calculator.calculate(crystal)
    wanted = calculator.results
    assert raised == [None] and found[0] == pytest.approx(wanted["energy"], rel=1e-9)
    np.testing.assert_allclose(found[1], wanted["forces"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[2], wanted["stress"], rtol=1e-9, atol=1e-12)


def test_other_structures_and_no_server_are_refused(molecule, calculator):
    with (
        pytest.raises(DataError, match="got 8 atoms; allowed: the 9"),
        driven(molecule, calculator) as server,
        pytest.raises((Gone, OSError)),
    ):
        server.ask(molecule.positions[:8].copy(), 50.0 * np.eye(3))
    with pytest.raises(ConfigError, match="/tmp/ipi_nobody"):
        drive(molecule, calculator, unixsocket="nobody", wait_s=0.0)


def test_what_is_not_finite_is_null():
    found = json.loads(extras({"energy_sigma": math.inf, "forces_sigma": np.ones((2, 3))}, None, committee=False))
    assert found["energy_sigma"] is None and len(found["forces_sigma"]) == 6
