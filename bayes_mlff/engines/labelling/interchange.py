"""Runs Parsl's interchange, which passes tasks from the driver to the jobs, so that it ends with the driver.

By itself it would outlive a driver that is killed, and hold the jobs until their time limit.
`python -m bayes_mlff.engines.labelling.interchange` is what Parsl starts.
"""

import os
import runpy
import signal
import threading
import time
from typing import Final

POLL_S: Final = 1.0


def end_with_driver() -> None:
    """End this process when its parent is gone; Ctrl-C in the driver's terminal is the driver's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    driver = os.getppid()

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(POLL_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_driver()
    runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__")
