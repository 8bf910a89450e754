"""Time this package against its peers, in turns, on the machine that it runs on.

    python -m benchmarks.speed.run --nequip PYTHON --mace PYTHON --mlip PYTHON [--only QUESTION ...]

PYTHON are interpreters of environments with this package and nequip 0.6.1, mace-torch or mlip (whose requirements
exclude each other). Every question is a line of `benchmarks/results/speed/DEVICE.json`.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from bayes_mlff.core.jax_start import one_device_per_core
from bayes_mlff.parallel.devices import GIB
from benchmarks.speed import cases, ours

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "speed"
PEER_OF = {"ethanol": "nequip", "lamno3-40": "mace"}
GROWTH = (1, 2, 4)
"""Repeats of the cell of 40 atoms in each direction."""


class Peer:
    """A peer at work in its own environment."""

    def __init__(self, python: str, kind: str, *work: str):
        module = {"mlip": "benchmarks.speed.mlip_peer", "ours": "benchmarks.speed.surface"}.get(kind)
        arguments = work if kind == "ours" else (kind, *work)
        command = [python, "-W", "ignore", "-m", module or "benchmarks.speed.peer", *arguments]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.version = self._answer()["version"]

    def time(self) -> float:
        """Do the work once; seconds."""
        return self.measure()["seconds"]

    def measure(self) -> dict[str, float]:
        """Do the work once; seconds, and GiB that it has taken so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"the peer ended: {self._process.args}")


def timed(once: Callable[[], None]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    once()
    return time.perf_counter() - start


def in_turns(once: Callable[[], None], factor: float, peer: Peer, rounds: int) -> tuple[float, float, float]:
    """Median seconds of ours and the peer, and the median ratio of neighbouring measurements."""
    pairs = [(factor * timed(once), peer.time()) for _ in range(rounds)]
    mine, theirs = zip(*pairs, strict=True)
    return statistics.median(mine), statistics.median(theirs), statistics.median(b / a for a, b in pairs)


def against_peers(args: argparse.Namespace, task: str) -> list[dict[str, Any]]:
    """An update step, or a step of dynamics, of all chains."""
    rows = []
    for name, make in cases.CASES.items():
        case, steps = make(), 20 if name == "ethanol" else 4
        once = ours.update(case) if task == "sghmc" else ours.dynamics(case, steps=steps)
        factor = 1.0 / (ours.THIN if task == "sghmc" else steps)
        question = "SGHMC step of 8 chains, batch 5" if task == "sghmc" else "MD step with 8 models"
        for kind in (PEER_OF[name], *(["mlip"] if args.mlip else [])):
            peer = Peer(getattr(args, kind), kind, task, name)
            try:
                mine, theirs, ratio = in_turns(once, factor, peer, args.rounds)
            finally:
                peer.close()
            rows.append(row(question, name, mine, peer.version, theirs, ratio))
    return rows


def gate(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A step that combines 8 energies and decides, and one that also combines forces, against one that does neither."""
    rows = []
    for name in ("ethanol", "lamno3-40"):
        case = shipped(name)
        none, energy, everything = (ours.dynamics(case, steps=100, sigmas=s) for s in ("none", "energy", "all"))
        rounds = [[timed(once) / 100 for once in (none, energy, everything)] for _ in range(5 * args.rounds)]
        for column, question in ((1, "uncertainty gate"), (2, "uncertainty gate and σ of the forces for the record")):
            mine, theirs = (statistics.median(r[k] for r in rounds) for k in (column, 0))
            share = statistics.median(r[column] / r[0] for r in rounds) - 1.0
            rows.append(row(question, name, mine, "the same without", theirs, theirs / mine) | {"share_of_step": share})
    return rows


def growth(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Shipped MACE: a step of dynamics with 8 models as the cell grows, and an update as chains are added."""
    rows, case = [], shipped("lamno3-40")
    for repeat in GROWTH:
        larger = replace(case, structure=cases.supercell(case.structure, repeat))
        steps = max(1, 64 // repeat**3)
        once = ours.dynamics(larger, steps=steps)
        seconds = statistics.median(timed(once) / steps for _ in range(args.rounds))
        atoms = len(larger.structure.numbers)
        rows.append(
            row(f"MD step with 8 models of the shipped size, {atoms} atoms", "lamno3", seconds)
            | {"us_per_atom": 1e6 * seconds / atoms, "gib": memory_gib()}
        )
    for chains in (1, 2, 4, 8):
        once = ours.update(case, chains=chains)
        seconds = statistics.median(timed(once) / ours.THIN for _ in range(args.rounds))
        rows.append(
            row(f"SGHMC step of {chains} chains of the shipped size, batch 5", "lamno3-40", seconds)
            | {"s_per_chain": seconds / chains}
        )
    return rows


def small_systems(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Replicas of one molecule in one batch, on one device."""
    case, rows, steps = shipped("ethanol"), [], 50
    for count in (1, 4, 16):
        once = ours.several(case, count=count, steps=steps)
        seconds = statistics.median(timed(once) for _ in range(args.rounds)) / steps
        extra = {"steps_per_s_and_replica": 1.0 / seconds, "steps_per_s_of_all": count / seconds}
        rows.append(row(f"MD step of {count} replicas with 8 models", "ethanol", seconds) | extra)
    return rows


def peak(args: argparse.Namespace) -> list[dict[str, Any]]:
    """FLOP and bytes of an update step by XLA's account, and what share of the rate of a large product it reaches."""
    rate, rows = ours.product_rate(args.rounds), []
    for name, make in cases.CASES.items():
        for size, case in (("published size", make()), ("shipped size", shipped(name))):
            work = ours.account(case)
            once = ours.update(case)
            seconds = statistics.median(timed(once) for _ in range(args.rounds)) / ours.THIN
            flop = cases.CHAINS * work.flop
            extra = {
                "gflop": flop / 1e9,
                "gb": cases.CHAINS * work.byte / 1e9,
                "gflop_per_s": flop / seconds / 1e9,
                "gflop_per_s_of_a_product": rate / 1e9,
                "share_of_peak": flop / seconds / rate,
            }
            rows.append(row(f"FLOP of an SGHMC step of 8 chains, batch 5, {size}", name, seconds) | extra)
    return rows


def surface(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Published EquiformerV2 of 31 M weights on a slab: steps of 1 and 8 chains in turns with PyTorch, and memory."""
    if args.fairchem is None or args.slabs is None:
        raise SystemExit("surface: needs --fairchem and --slabs")
    rows, name = [], f"{cases.SLAB}{args.slabs.absolute()}"
    for task, question, one in (("sghmc", "SGHMC step of {}, batch 5", "chain"), ("md", "MD step with {}", "model")):
        for chains in args.chains:
            here = Peer(sys.executable, "ours", task, name, str(chains))
            there = Peer(args.fairchem, "fairchem", task, name)
            try:
                pairs = [(here.measure(), there.measure()) for _ in range(args.rounds)]
            finally:
                here.close()
                there.close()
            share = chains / cases.CHAINS  # the peer evaluates one chain after the other
            mine = statistics.median(a["seconds"] for a, _ in pairs)
            theirs = share * statistics.median(b["seconds"] for _, b in pairs)
            ratio = statistics.median(share * b["seconds"] / a["seconds"] for a, b in pairs)
            asked = question.format(f"{chains} {one}" + ("s" if chains > 1 else ""))
            memory = {"gib": pairs[-1][0]["gib"], "peer_gib": pairs[-1][1]["gib"]}
            rows.append(row(asked, "slab, EquiformerV2 31 M", mine, there.version, theirs, ratio) | memory)
    return rows


def starts(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What a short run compiles, and what its second start still has to compile."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": folder}  # where compiled functions go by default
        for number in ("first", "second"):
            command = [args.tblite, "-W", "ignore", "-m", "benchmarks.speed.starts", f"{folder}/{number}"]
            ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
            found = json.loads(ran.stdout.splitlines()[-1])
            rows.append(row(f"{number} start of a run, to its end", "ethanol", found.pop("seconds")) | found)
    return rows


def memory_gib() -> float:
    """Largest memory of this process so far, or of the first device where that tells."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / GIB
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB


def shipped(name: str) -> cases.Case:
    """The system with the architecture of the model that comes with the package."""
    case = cases.CASES[name]()
    model = "nequip-md17-small" if name == "ethanol" else "mace-perovskite-small"
    return replace(case, config=ours.shipped_config(model, case.structure))


def device_name() -> str:
    """Number and kind of the devices."""
    return f"{len(jax.devices())} x {jax.devices()[0].device_kind}"


def commit() -> str:
    """That of the working tree."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def row(
    question: str, system: str, mine: float, peer: str = "", theirs: float | None = None, ratio: float | None = None
):
    """One line of the results."""
    result = {
        "question": question,
        "system": system,
        "device": device_name(),
        "ours_s": mine,
        "peer": peer,
        "peer_s": theirs,
        "ratio": ratio,
        "commit": commit(),
        "versions": f"jax {jax.__version__}",
    }
    print(json.dumps(result), flush=True)
    return result


QUESTIONS: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "update": lambda args: against_peers(args, "sghmc"),
    "dynamics": lambda args: against_peers(args, "md"),
    "gate": gate,
    "growth": growth,
    "replicas": small_systems,
    "peak": peak,
    "surface": surface,
    "starts": starts,
}


def _identity(line: dict[str, Any]) -> tuple[str, str, str]:
    return line["question"], line["system"], line["peer"].split(" ")[0]


def main() -> None:
    """Answer the questions and keep what others answered before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nequip", default=sys.executable, help="interpreter with nequip")
    parser.add_argument("--mace", default=sys.executable, help="interpreter with mace-torch")
    parser.add_argument("--mlip", default=None, help="interpreter with mlip; without it that peer is left out")
    parser.add_argument("--tblite", default=sys.executable, help="interpreter with tblite, for the short runs")
    parser.add_argument("--fairchem", default=None, help="interpreter with fairchem-core 1.10.0, for surface")
    parser.add_argument("--slabs", type=Path, default=None, help="file of slabs with adsorbed atoms, for surface")
    parser.add_argument("--chains", type=int, nargs="+", default=[1, 8], help="numbers of chains, for surface")
    usual = [name for name in QUESTIONS if name != "surface"]
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=usual)
    parser.add_argument("--rounds", type=int, default=3, help="measurements, of which the median is taken")
    args = parser.parse_args()
    one_device_per_core(cases.CHAINS)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{jax.default_backend()}.json"
    known = json.loads(path.read_text()) if path.is_file() else []
    for name in args.only:
        new = QUESTIONS[name](args)
        names = {_identity(r) for r in new}
        known = [r for r in known if _identity(r) not in names] + new
        path.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
