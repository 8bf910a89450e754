"""A SLURM of two one-core nodes on this machine, in a folder of its own.

It needs the programs of SLURM and munge, which nothing here installs: `apt-get install slurm-wlm munge` on Debian.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

PARTITION: Final = "labels"
NODES: Final = ("node1", "node2")
PROGRAMS: Final = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "scontrol")
PORT: Final = 16817

CONFIGURATION: Final = """\
ClusterName=labels
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdTimeout=20
KillWait=5
SchedulerParameters=bf_interval=5,sched_min_interval=1000000
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=1 State=UNKNOWN
PartitionName={partition} Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """Starts and ends the daemons, and plans accidents; all files are in `folder`."""

    def __init__(self, folder: Path):
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            raise SystemExit(f"{', '.join(missing)}: not installed; apt-get install slurm-wlm munge")
        self.folder = folder.resolve()
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> "Slurm":
        munge = self.folder / "munge"
        for folder in (munge, self.folder / "state", *(self.folder / node for node in NODES)):
            folder.mkdir(parents=True)
        key = munge / "key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        text = CONFIGURATION.format(
            host=socket.gethostname(),
            user=Path(self.folder).owner(),
            folder=self.folder,
            port=PORT,
            first=PORT + 1,
            last=PORT + 2,
            partition=PARTITION,
        )
        (self.folder / "slurm.conf").write_text(text)
        files = {name: munge / name for name in ("socket", "pid-file", "log-file", "seed-file")}
        self._run("munged", f"--key-file={key}", *(f"--{name}={path}" for name, path in files.items()))
        self._run("slurmctld")
        for node in NODES:
            self.start_node(node)
        self.wait_for_nodes()
        return self

    def __exit__(self, *_: object) -> None:
        for node in NODES:
            self.kill_node(node)
        for pid_file in (self.folder / "slurmctld.pid", self.folder / "munge" / "pid-file"):
            if pid_file.exists():
                os.kill(int(pid_file.read_text()), signal.SIGTERM)

    def wait_for_nodes(self) -> None:
        """Wait until both nodes are up."""
        for _ in range(60):
            states = self.ask("sinfo", "--noheader", "--Node", "--format=%t").split()
            if all(state.startswith(("idle", "mix", "alloc")) for state in states) and len(states) == len(NODES):
                return
            time.sleep(1.0)
        raise SystemExit(f"the nodes do not come up: {states}; see the logs in {self.folder}")

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._run("slurmd", "-N", node)

    def kill_node(self, node: str) -> int:
        """Kill the daemon of a node and all that runs there, as a power cut does; returns the number of processes."""
        pid_file = self.folder / f"{node}.pid"
        daemon = [int(pid_file.read_text())] if pid_file.exists() else []
        killed = 0
        for pid in [*daemon, *self._processes(node)]:
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                continue
        pid_file.unlink(missing_ok=True)
        return killed

    def hold(self, held: bool) -> None:
        """Let jobs wait in the queue, or start them again."""
        self.ask("scontrol", "update", f"PartitionName={PARTITION}", f"State={'DOWN' if held else 'UP'}")

    def jobs(self) -> list[tuple[str, str, str]]:
        """Id, state and node of each job in the queue."""
        lines = self.ask("squeue", "--noheader", "--format=%i|%t|%N").splitlines()
        return [tuple(line.split("|")) for line in lines]  # type: ignore[misc]

    def ended(self) -> dict[str, int]:
        """Number of jobs that have ended, by their last state."""
        path, found = self.folder / "jobs.txt", {}
        for line in path.read_text().splitlines() if path.exists() else []:
            state = next(word for word in line.split() if word.startswith("JobState=")).removeprefix("JobState=")
            found[state] = found.get(state, 0) + 1
        return found

    def ask(self, *command: str) -> str:
        """Output of a program of SLURM."""
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def _run(self, *command: str) -> None:
        subprocess.run(command, env=self.environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _processes(self, node: str) -> set[int]:
        """Processes of jobs of this SLURM on a node, and those that look after them there."""
        marks = {f"SLURMD_NODENAME={node}", f"SLURM_CONF={self.environment['SLURM_CONF']}"}
        found = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if marks <= set((entry / "environ").read_bytes().decode("utf-8", "replace").split("\0")):
                    found.add(int(entry.name))
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    if Path(f"/proc/{parent}/comm").read_text().strip() == "slurmstepd":
                        found.add(parent)
        return found
