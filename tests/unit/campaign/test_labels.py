"""Which labels a round takes: by arrival, in rounds, and again what was logged."""

from types import SimpleNamespace

import pytest

from bayes_mlff.campaign.labels import Outcome, Requests
from bayes_mlff.core.errors import RunInterruptedError


class Dispatcher:
    """Labels of walkers that come back after so many looks."""

    def __init__(self, requests, looks):
        self.requests, self.left = requests, dict(looks)

    def cancel(self, tag):
        self.left.pop(tag[0], None)

    def wait(self, timeout_s):
        assert self.left, "waits for nothing"

    def look(self):
        for i in list(self.left):
            self.left[i] -= 1
            if self.left[i] < 0:
                del self.left[i]
                self.requests._ready[i] = Outcome(None, f"walker {i}")


def made(order, looks):
    """Requests under way of walkers that are answered after so many looks."""
    requests = Requests.__new__(Requests)
    requests._campaign = SimpleNamespace(config=SimpleNamespace(order=order))
    under_way = {i: SimpleNamespace(step=10) for i in looks}
    requests._open, requests._ready, requests._replay = under_way, {}, {}
    requests._interruption = SimpleNamespace(check=lambda *said: None)
    requests._dispatcher = dispatcher = Dispatcher(requests, looks)
    requests._look = dispatcher.look
    return requests


def taken(requests, order, *, moving, number=1):
    return [i for i, _ in requests.take(number, order, moving=moving, steps=(0, 1))]


def test_by_arrival_a_round_takes_what_is_there_and_waits_only_if_nobody_moves():
    requests = made("arrival", {0: 5, 1: 0, 2: 9})
    assert taken(requests, [0, 1, 2], moving=True) == [1]
    assert taken(requests, [0, 2], moving=True) == []
    assert taken(requests, [0, 2], moving=False) == [0], "waited for more than one, or for none"
    assert set(requests._open) == {2}


def test_in_rounds_all_that_were_requested_before_are_waited_for_in_the_order_of_requests():
    requests = made("rounds", {0: 5, 1: 0, 2: 3})
    assert taken(requests, [2, 0], moving=True) == [2, 0]
    assert set(requests._open) == {1}


@pytest.mark.parametrize("order", ["arrival", "rounds"])
def test_a_round_that_was_logged_takes_the_same_again_whatever_is_there(order):
    requests = made(order, {0: 0, 1: 4, 2: 0})
    requests.replay({7: {1: None}, 8: {2: "no label then"}})
    assert taken(requests, [0, 1, 2], moving=True, number=7) == [1]
    [(i, outcome)] = requests.take(8, [0, 2], moving=True, steps=(0, 1))
    assert (i, outcome.failure) == (2, "no label then")
    assert taken(requests, [0], moving=True, number=9) == [0]


def test_waiting_can_be_interrupted():
    requests = made("rounds", {0: 1000})

    def check(*said):
        raise RunInterruptedError("SIGTERM", "here", "go on")

    requests._interruption.check = check
    with pytest.raises(RunInterruptedError):
        taken(requests, [0], moving=True)
