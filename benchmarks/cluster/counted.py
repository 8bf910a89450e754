"""PySCF as an ASE calculator that notes the beginning and the end of each calculation in a ledger."""

import json
import os
import time

from ase.calculators.calculator import Calculator, all_changes

from bayes_mlff.data.structure import from_ase
from bayes_mlff.engines.pyscf.engine import PyscfEngine, PyscfSettings


class PySCF(Calculator):
    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (as ASE has it)

    def __init__(self, ledger: str, xc: str, basis: str, **kwargs):
        super().__init__(**kwargs)
        self._ledger = ledger
        self._engine = PyscfEngine(PyscfSettings(xc=xc, basis=basis, threads=1, warm_start=False))

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        start = self._noted("begins", atoms, 0.0)
        label = self._engine.label(from_ase(atoms)).label
        self.results = {"energy": label.energy, "forces": label.forces}
        self._noted("ends", atoms, start)

    def _noted(self, what: str, atoms, start: float) -> float:
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
        descriptor = os.open(self._ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, json.dumps(line).encode() + b"\n")
        os.close(descriptor)
        return now
