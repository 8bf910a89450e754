"""A calculator with planted faults for a process of its own, and a crystal for it."""

import textwrap

from ase.build import bulk

from bayes_mlff.data.structure import Structure, from_ase

PLANTED = textwrap.dedent("""
    import os, subprocess, sys, time
    import numpy as np
    from ase.calculators.calculator import CalculationFailed, Calculator, CalculatorSetupError, all_changes

    class OwnError(Exception):
        pass

    class Springs(Calculator):
        implemented_properties = ["energy", "forces", "stress"]

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            r = atoms.positions
            self.results = {"energy": 0.5 * np.sum(r * r), "forces": -r, "stress": 1e-3 * np.arange(6) * np.sum(r)}

    class Faulty(Springs):
        def __init__(self, fault="none", label=None, soft=False, **kwargs):
            if fault == "refuses":
                raise KeyError("no such keyword")
            if fault == "dies early":
                os.write(2, b"out of luck")
                os.abort()
            super().__init__(**kwargs)
            self.fault, self.moments = fault, None

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            fault = self.fault
            if fault.startswith("once "):
                fault = "none" if os.path.exists("before") else fault[5:]
                open("before", "w").close()
            if fault == "stale" and self.results:
                return
            super().calculate(atoms, properties, system_changes)
            start = np.array(atoms.get_initial_magnetic_moments())
            self.moments = start if self.moments is None else self.moments
            self.results["magmoms"] = 0.9 * self.moments
            if fault == "flips" and os.path.exists("flip"):
                self.results["magmoms"][0] *= -1
            if fault == "abort":
                os.write(2, b"heap corrupted")
                os.abort()
            if fault == "exit":
                sys.exit(0)
            if fault == "hang":
                time.sleep(3600)
            if fault in ("family", "stubborn"):
                code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
                child = subprocess.Popen([sys.executable, "-c", code])
                with open("grandchild", "w") as file:
                    file.write(str(child.pid))
                if fault == "family":
                    time.sleep(3600)
            if fault == "noise":
                print('{"id": 2, "energy": 0.0}')
                os.write(1, b"\\xff\\x00 garbage without an end")
                subprocess.run(["echo", '{"id": 2}'])
                assert sys.stdin.read() == ""
            if fault == "nan":
                self.results["forces"][1, 2] = np.nan
            if fault == "shape":
                self.results["forces"] = self.results["forces"][:-1]
            if fault == "text":
                self.results["energy"] = np.array("very low")
            if fault == "own":
                raise OwnError("not converged")
            if fault == "failed":
                raise CalculationFailed("scf")
            if fault == "setup":
                raise CalculatorSetupError("no pseudopotential")
            if fault == "executable":
                raise FileNotFoundError("pw.x")
            if fault == "bug":
                raise KeyError("a bug of the calculator")
            said = {"writes": "converged", "unconverged": "SCF run NOT converged", "silent": ""}
            if fault in said:
                with open("program.out", "a") as file:
                    file.write(said[fault])

        def get_property(self, name, atoms=None, allow_calculation=True):
            if self.fault == "stale" and self.results:
                return self.results[name]
            return super().get_property(name, atoms, allow_calculation)
""")


def copper(seed: int = 0) -> Structure:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    return from_ase(atoms)
