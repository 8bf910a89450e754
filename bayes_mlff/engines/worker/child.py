"""Serve one ASE calculator over JSON lines on stdin and stdout, in any Python 3.8+ that has ASE and NumPy.

This file is executed by its path in another process, often in another environment, so it imports nothing of this
package. Requests and replies are one JSON object per line with the same `id`; other lines on stdout are ignored.
With the arguments `serve MODULE LAUNCHER...` it starts several processes for each label (LAUNCHER: e.g. mpiexec -n 4),
which communicate by the calculator's own MPI module MODULE: `once MODULE REQUEST REPLY`. They end after each
calculation, since a waiting MPI process occupies a core.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file; its modules must not hide the engine's own

import gc
import hashlib
import importlib
import importlib.util
import json
import os
import queue
import re
import runpy
import signal
import subprocess
import threading
import traceback
from typing import Any, Dict, List, Optional, Sequence, Tuple  # noqa: UP035 (Python 3.8)

Message = Dict[str, Any]  # noqa: UP006


def _shared(name: str) -> Any:
    """Import a file of the parent folder as a module; such files import nothing of this package either."""
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), name + ".py")
    spec = importlib.util.spec_from_file_location("bayes_mlff_child_" + name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


factories, calls = _shared("factories"), _shared("calls")

GRACE_S = 1.0
_KILL_LATER = "import os, sys, time; time.sleep(float(sys.argv[2])); os.killpg(int(sys.argv[1]), 9)"


class OutputCheck:
    """Searches the output of a calculator's program, since some programs return unconverged numbers silently."""

    def __init__(self, path: str, pattern: str):
        self._path, self._pattern = path, re.compile(pattern)
        self._time, content = self._read()
        self._size, self._digest = len(content), hashlib.sha256(content).digest()

    def complaint(self) -> Optional[str]:  # noqa: UP045 (Python 3.8)
        """Return why the calculation since this object was made is not usable; None if it is."""
        now, content = self._read()
        if now == self._time:
            return f"{self._path} was not written by this call, so that nobody knows whether it converged"
        appended = len(content) > self._size and hashlib.sha256(content[: self._size]).digest() == self._digest
        found = self._pattern.search(content[self._size if appended else 0 :].decode("utf-8", "replace"))
        return f"{found.group(0)!r} in {self._path}" if found else None

    def _read(self) -> Tuple[int, bytes]:  # noqa: UP006 (Python 3.8)
        """Time of the last change, ns, and content of the file; -1 and empty if it does not exist."""
        try:
            with open(self._path, "rb") as file:
                return os.fstat(file.fileno()).st_mtime_ns, file.read()
        except FileNotFoundError:
            return -1, b""


class Server:
    """Holds the calculator and answers requests."""

    shares_folder = False  # True if several processes make the same calculator

    def __init__(self) -> None:
        self._path, self._base = "", None
        self._arguments: Message = {}
        self._calculator: Any = None
        self._moments: Any = None  # magnetic moments that the calculator started from
        self._output: Optional[List[str]] = None  # noqa: UP006, UP045
        self._held: List[Any] = []  # noqa: UP006 (locks of folders outside the working folder)
        self.making = False  # True while the calculator is being made: any error then comes from its settings

    def start(self, message: Message) -> Message:
        """Import the calculator's class, and those that arguments name; report versions and declared keywords."""
        self._path, self._base = message["calculator"], message.get("base")
        self._output = message["output"]
        found = {self._path: factories.find_factory(self._path, "engine.calculator", self._base)}
        arguments = message.get("attempts") or [{}]
        for some in arguments:
            for place, item in factories.descriptions(some, "engine.arguments"):
                path = item["calculator"]
                found[path] = factories.find_factory(path, place + ".calculator", self._base)
        return {
            "ase": importlib.import_module("ase").__version__,
            "package": factories.identity(self._path, arguments[0], self._base),
            "names": {path: factories.keywords(factory) for path, factory in found.items()},
        }

    def check(self, message: Message) -> Message:
        """Run the engine's own checks, make the calculator if there is none, and report its properties."""
        problem = None
        if message["probe"] is not None:
            problem = runpy.run_path(message["probe"])["problem"](message["arguments"], message["numbers"])
        if problem is not None:
            return {"problem": problem, "properties": []}
        calculator = (
            self._calculator if self._calculator is not None else self._make(message["arguments"], message["moments"])
        )
        return {"problem": None, "properties": list(calculator.implemented_properties)}

    def label(self, message: Message) -> Message:
        """Energy, forces and stress of one geometry."""
        calculator = self._calculator
        if message["fresh"] or calculator is None or message["arguments"] != self._arguments:
            calculator = self._make(message["arguments"], message["moments"])
        geometry = message["geometry"]
        atoms = calls.atoms_of(geometry, dict(message.get("told") or {}, moments=self._moments))
        watch = OutputCheck(*self._output) if self._output is not None else None
        answer = calls.evaluate(calculator, atoms, message["stress"])
        moments = (getattr(calculator, "results", None) or {}).get("magmoms")
        evaluated = getattr(calculator, "atoms", None)
        if evaluated is not None:
            geometry = {
                "numbers": evaluated.numbers,
                "positions": evaluated.positions,
                "cell": evaluated.cell.array,
                "pbc": evaluated.pbc,
            }
        answer["moments"] = moments
        answer["geometry"] = None if evaluated is None else geometry
        answer["complaint"] = watch.complaint() if watch is not None else None
        return answer

    def drop(self, message: Message) -> Message:
        """Close and release the calculator, which may have child processes."""
        del message
        calculator, self._calculator = self._calculator, None
        close = getattr(calculator, "close", None)
        if callable(close):
            close()
        calls.release(self._held)
        del calculator, close
        gc.collect()  # a density is large, and the next calculator allocates its own
        return {}

    def _make(self, arguments: Message, moments: Any) -> Any:
        self.drop({})
        self.making = True
        given = factories.with_files(arguments, self._base)
        self._calculator = factories.make(self._path, given, self._base)
        if not self.shares_folder:
            self._held = calls.claim_folders(self._calculator, os.getcwd())
        self._arguments, self._moments, self.making = arguments, moments, False
        return self._calculator


class ParallelServer(Server):
    """Calculates each label in new MPI processes."""

    def __init__(self, mpi: str, launcher: Sequence[str]) -> None:
        super().__init__()
        self._mpi, self._launcher, self._started = mpi, launcher, {}

    def start(self, message: Message) -> Message:
        """Import the calculator's class in this process, too."""
        self._started = message
        return super().start(message)

    def label(self, message: Message) -> Message:
        """Energy, forces and stress of one geometry."""
        request, reply = "request.json", "reply.json"
        for left in (request, reply):
            if os.path.exists(left):
                os.remove(left)
        with open(request, "w", encoding="utf-8") as file:
            json.dump({**self._started, **message}, file)
        command = [*self._launcher, sys.executable, __file__, "once", self._mpi, request, reply]
        status = subprocess.call(command, stdin=subprocess.DEVNULL)
        if not os.path.exists(reply):
            failed = importlib.import_module("ase.calculators.calculator").CalculationFailed
            raise failed(f"{' '.join(self._launcher)} ended with status {status} and no result")
        with open(reply, encoding="utf-8") as file:
            return json.load(file)


def _plain(value: Any) -> Any:
    """Convert arrays and NumPy numbers to values that JSON knows."""
    return value.tolist()


def _answer(server: Server, message: Message) -> Message:
    """Serve one request; an exception of the calculator becomes part of the reply."""
    server.making = False
    try:
        return getattr(server, message["op"])(message)
    except Exception as error:  # noqa: BLE001 (the parent decides by the names of its classes)
        traceback.print_exc()
        sys.stderr.flush()
        kinds = [kind for kind in type(error).__mro__ if kind is not object]
        return {
            "error": str(error),
            "kinds": [kind.__name__ for kind in kinds],
            "making": server.making or message["op"] == "start",
            "root": type(error).__module__.split(".")[0],
            "trace": "".join(traceback.format_tb(error.__traceback__)[-2:]),
        }


def _read(source: Any, requests: Any, busy: Any) -> None:
    """Queue requests; if the parent dies during a calculation, end the whole process group."""
    for line in source:
        requests.put(json.loads(line))
    requests.put(None)
    if busy.is_set():
        _end_family()


def _end_family() -> None:
    """End this process group; processes that ignore SIGTERM are killed later by a process outside the group."""
    if os.getpgrp() != os.getpid():
        return
    subprocess.Popen(
        [sys.executable, "-c", _KILL_LATER, str(os.getpid()), str(GRACE_S)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.killpg(0, signal.SIGTERM)


def once(mpi: str, request: str, reply: str) -> None:
    """Calculate a label in all processes of a launcher; the first writes the reply to a file."""
    first = importlib.import_module(mpi).world.rank == 0
    with open(request, encoding="utf-8") as file:
        message = json.load(file)
    server = Server()
    server.shares_folder = True
    server.start(message)
    answer = _answer(server, message)
    if first:
        with open(reply + ".part", "w", encoding="utf-8") as file:
            json.dump(answer, file, default=_plain)
        os.replace(reply + ".part", reply)


def main(mpi: Optional[str] = None, *launcher: str) -> None:  # noqa: UP045 (Python 3.8)
    """Serve until stdin ends. The engine and its children cannot use file descriptors 0 and 1."""
    source = os.fdopen(os.dup(0), "r", encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    requests: Any = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_read, args=(source, requests, busy), daemon=True).start()
    server, parent = Server() if mpi is None else ParallelServer(mpi, launcher), os.getppid()
    while True:
        message = requests.get()
        if message is None:
            break
        busy.set()
        reply = {"id": message["id"], **_answer(server, message)}
        busy.clear()
        replies.write("\n" + json.dumps(reply, default=_plain) + "\n")
        replies.flush()
    server.drop({})
    if os.getppid() != parent:  # the parent was killed, so this process ends what the calculator has left running
        _end_family()


if __name__ == "__main__":
    {"serve": main, "once": once}[sys.argv[1] if len(sys.argv) > 1 else "serve"](*sys.argv[2:])
