"""Accidents of a SLURM and of a driver that asks it for labels."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.cluster.record import Record, ends, under_way, until
from benchmarks.cluster.slurm import Slurm


def queue_held(
    slurm: Slurm, folder: Path, start: Callable[[], subprocess.Popen], record: Record, *, jobs: int
) -> subprocess.Popen:
    """Start a driver while the queue is held, and release it when so many jobs have waited for 20 s."""
    slurm.hold(True)
    driver = start()
    record.say("the queue is held, the driver starts")
    until(lambda: [state for _, state, _ in slurm.jobs()] == ["PD"] * jobs, f"jobs wait ({jobs})", driver)
    time.sleep(20.0)
    assert ends(folder) == 0 and driver.poll() is None
    slurm.hold(False)
    record.say(f"jobs ({jobs}) have waited for 20 s; the queue is released")
    return driver


def node_killed(slurm: Slurm, folder: Path, driver: subprocess.Popen, record: Record) -> None:
    """Kill a node in the middle of a calculation, and start it again after 30 s."""
    victim = until(lambda: under_way(folder), "a calculation is under way", driver)[0]
    killed = slurm.kill_node(victim["node"])
    record.say(f"{victim['node']} is killed in the middle of a calculation, {killed} processes")
    time.sleep(30.0)
    slurm.start_node(victim["node"])
    record.say(f"{victim['node']} is started again")


def driver_killed(folder: Path, driver: subprocess.Popen, record: Record) -> None:
    """Kill a driver in the middle of a calculation, which goes on without it."""
    until(lambda: under_way(folder), "a calculation is under way", driver)
    before = ends(folder)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    record.say("the driver is killed (-9) in the middle of calculations")
    until(lambda: ends(folder) > before or not under_way(folder), "a label is calculated without a driver")
    time.sleep(10.0)
    record.say(f"{ends(folder) - before} labels were calculated while there was no driver")


def finished(driver: subprocess.Popen, record: Record) -> None:
    """Wait for the end of a driver."""
    until(lambda: driver.poll() is not None, "the driver ends")
    if driver.returncode != 0:
        raise SystemExit(f"the driver ended with status {driver.returncode}")
    record.say("all labels have arrived, the driver has ended")
