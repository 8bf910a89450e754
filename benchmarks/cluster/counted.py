"""ASE calculators that note the beginning and the end of each calculation in a ledger."""

import json
import os
import time

from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from bayes_mlff.data.structure import from_ase
from bayes_mlff.engines.pyscf.engine import PyscfEngine, PyscfSettings


class PySCF(Calculator):
    """PySCF."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (as ASE has it)

    def __init__(self, ledger: str, xc: str, basis: str, **kwargs):
        super().__init__(**kwargs)
        self._ledger = ledger
        self._engine = PyscfEngine(PyscfSettings(xc=xc, basis=basis, threads=1, warm_start=False))

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        start = noted(self._ledger, "begins", atoms)
        label = self._engine.label(from_ase(atoms)).label
        self.results = {"energy": label.energy, "forces": label.forces}
        noted(self._ledger, "ends", atoms, start)


class Slow(EMT):
    """EMT that takes its time."""

    def __init__(self, ledger: str, seconds: float, **kwargs):
        super().__init__(**kwargs)
        self._ledger, self._seconds = ledger, seconds

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        start = noted(self._ledger, "begins", atoms)
        time.sleep(self._seconds)
        super().calculate(atoms, properties, system_changes)
        noted(self._ledger, "ends", atoms, start)


def noted(ledger: str, what: str, atoms, start: float = 0.0) -> float:
    """Append a line, which is whole since it is short; returns the processor time so far, s."""
    now = time.process_time()
    line = {
        "what": what,
        "geometry": atoms.positions.tobytes().hex()[:64],
        "time": time.time(),
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "pid": os.getpid(),
        "processor_s": round(now - start, 2) if what == "ends" else None,
    }
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, json.dumps(line).encode() + b"\n")
    os.close(descriptor)
    return now
