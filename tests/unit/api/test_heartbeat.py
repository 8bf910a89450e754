"""Whoever waits is told at least every quarter of a minute what for."""

import io
import time

import pytest
from rich.console import Console

from bayes_mlff.api import console, finetune_console
from bayes_mlff.api.heartbeat import EVERY_S, Heartbeat
from bayes_mlff.otf import config


def test_a_line_is_due_after_a_silence_and_says_for_how_long():
    now = [100.0]
    heartbeat = Heartbeat(print, every_s=20.0, clock=lambda: now[0])
    heartbeat.doing("reference calculation")
    said = []
    for _ in range(65):
        now[0] += 1.0
        said.append(heartbeat.due())
        if now[0] == 130.0:
            heartbeat.spoke()
    assert [(i + 1, line) for i, line in enumerate(said) if line] == [
        (20, "  reference calculation ... 20 s"),
        (50, "  reference calculation ... 50 s"),
    ]
    heartbeat.doing("continuing the chains")
    assert heartbeat.text() == "  continuing the chains ... 0 s"


def test_silence_is_shorter_than_twenty_seconds():
    assert EVERY_S + 1.0 < 20.0


def wait_for(text, stream, seconds=10.0):
    end = time.monotonic() + seconds
    while text not in stream.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    return stream.getvalue()


def test_a_run_without_a_terminal_gives_signs_of_life():
    stream = io.StringIO()
    with console.ConsoleObserver(Console(file=stream), config.parse({"structure": "ethanol"}), every_s=0.04) as seen:
        seen.label(step=0, reason="initial", error_ev=None, sigma_ev=None, seconds=1.0)
        assert "compiling and learning ... 0 s" in wait_for("learning", stream)
        seen.update(step=0, labels=1, rounds=1, seconds=1.0, force_error_ev_a=None)
        assert "compiling and running molecular dynamics" in wait_for("running", stream)
        seen.working("reference calculation")
        assert "  reference calculation ... 0 s" in wait_for("reference calculation", stream)
    length = len(stream.getvalue())
    time.sleep(0.1)
    assert len(stream.getvalue()) == length, "it goes on after the end"


def test_a_terminal_has_the_live_line_instead():
    stream = io.StringIO()
    made = Console(file=stream, force_terminal=True, width=100)
    with console.ConsoleObserver(made, config.parse({"structure": "ethanol"}), every_s=0.02) as seen:
        seen.working("reference calculation")
        time.sleep(0.3)
    assert "reference calculation ..." in stream.getvalue() and "calculation ... 0 s\n" not in stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_fine_tuning_gives_signs_of_life_before_its_bar_moves(terminal):
    stream = io.StringIO()
    made = Console(file=stream, force_terminal=terminal, width=100)
    with finetune_console.ConsoleObserver(made, every_s=0.04) as seen:
        seen.working("compiling and continuing the chains")
        assert "  compiling and continuing the chains ... 0 s" in wait_for("compiling", stream)
