"""Labels that are calculated elsewhere, with faults: a calculator that counts and dies, and executors that break."""

import os
import signal
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path

from ase.build import bulk
from ase.calculators.calculator import CalculationFailed, all_changes
from ase.calculators.emt import EMT

from bayes_mlff.data.structure import Structure, from_ase
from bayes_mlff.engines.ase_engine import AseSettings

DEADLY, HOPELESS, SLOW, LOST = "Au", "Pt", "Ag", "Pd"
"""The first atom of a geometry that kills its process, cannot be labelled, takes long, or ends without an answer."""


class Counted(EMT):
    """EMT that notes each calculation in a ledger, with accidents that depend on the first atom.

    Like an electronic structure it remembers: each further calculation of one object has a slightly higher energy.
    """

    def __init__(self, ledger: str, spare: str | None = None, seconds: float = 60.0, **kwargs):
        super().__init__(**kwargs)
        self.ledger, self.spare, self.seconds, self.earlier = ledger, spare, seconds, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        with open(self.ledger, "a") as file:
            file.write(f"{os.getpid()}\n")
        first = atoms.get_chemical_symbols()[0]
        if first == DEADLY and not (self.spare is not None and os.path.exists(self.spare)):
            if self.spare is not None:
                Path(self.spare).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if first == HOPELESS:
            raise CalculationFailed("no convergence")
        if first == SLOW:
            time.sleep(self.seconds)
        if first == LOST:
            raise KeyboardInterrupt("the end of the worker")
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] += 1e-9 * self.earlier
        self.results["free_energy"] += 1e-9 * self.earlier
        self.earlier += 1


def counted(folder: Path, **arguments) -> AseSettings:
    """Settings of an engine whose calculations are in `folder/ledger`."""
    arguments = {"ledger": str(folder / "ledger"), **arguments}
    return AseSettings(calculator="tests.support.labelling:Counted", arguments=arguments, retries=())


def calculations(folder: Path) -> list[int]:
    """Process ids of all calculations that have begun, in order."""
    path = folder / "ledger"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def crystal(seed: int, first: str = "Cu") -> Structure:
    """Four atoms of copper, displaced, perhaps with another first atom."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=seed)
    atoms.symbols[0] = first
    return from_ase(atoms)


class Losing(ThreadPoolExecutor):
    """Loses the first tasks, as an executor does whose nodes go down."""

    def __init__(self, losses: int, after: bool = False):
        super().__init__(1)
        self.losses, self.after = losses, after

    def submit(self, fn, /, *args, **kwargs) -> Future:
        if self.losses == 0 or fn.__name__ != "label":
            return super().submit(fn, *args, **kwargs)
        self.losses -= 1

        def lose() -> None:
            if self.after:  # the label is stored, its message is lost
                fn(*args, **kwargs)
            raise OSError("lost contact")

        return super().submit(lose)


class Breaking(ThreadPoolExecutor):
    """Breaks with its first label; `breaks` says how many of all executors do so."""

    breaks = 0
    made = 0

    def __init__(self):
        super().__init__(1)
        type(self).made += 1
        self.broken = threading.Event()

    def submit(self, fn, /, *args, **kwargs) -> Future:
        if fn.__name__ == "label" and type(self).breaks > 0 and not self.broken.is_set():
            type(self).breaks -= 1
            self.broken.set()
        if self.broken.is_set():
            future: Future = Future()
            future.set_exception(BrokenExecutor("all nodes are down"))
            return future
        return super().submit(fn, *args, **kwargs)


class Refusing(ThreadPoolExecutor):
    """Takes no labels."""

    def submit(self, fn, /, *args, **kwargs) -> Future:
        if fn.__name__ == "label":
            raise ValueError("the queue is closed")
        return super().submit(fn, *args, **kwargs)


class Dead(Executor):
    """Takes a task, and dies of it."""

    def submit(self, fn, /, *args, **kwargs) -> Future:
        future: Future = Future()
        future.set_exception(BrokenExecutor("dead at the start"))
        return future


class Deaf(Executor):
    """Takes tasks and never answers."""

    def submit(self, fn, /, *args, **kwargs) -> Future:
        return Future()


def raises() -> Executor:
    """An executor that does not start."""
    raise RuntimeError("no such queue")
