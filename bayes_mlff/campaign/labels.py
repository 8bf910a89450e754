"""Requests of walkers for labels: known ones are reused, new ones are calculated beside the dynamics."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from bayes_mlff.campaign.config import LabelsSettings
from bayes_mlff.campaign.pace import Pace
from bayes_mlff.campaign.problem import Campaign
from bayes_mlff.core.errors import EngineFailedError, EngineRetryError, RunStoppedError
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.engine import Engine, EngineResult
from bayes_mlff.engines.labelling.dispatcher import Dispatcher
from bayes_mlff.otf.given import Given
from bayes_mlff.otf.reference import Reference, Request
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.interruption import Interruption

_FRAME: Final = "frame"
"""First part of the tags of random frames."""

LOOK_S: Final = 0.5
"""How often the end of the campaign may be requested while it waits for labels, s."""


class Outcome(NamedTuple):
    """What has become of a request: a label, or the reason why there is none."""

    record: LabelRecord | None
    failure: str | None = None


class Requests:
    """All labels of a campaign, and those that are being calculated."""

    def __init__(
        self,
        campaign: Campaign,
        engine: Engine,
        dispatcher: Dispatcher,
        folders: tuple[RunDirectory, ...],
        interruption: Interruption,
    ):
        self._campaign, self._dispatcher, self._interruption = campaign, dispatcher, interruption
        self._references = [
            Reference(walk.problem, engine, folder, given=Given(campaign.given.of(walk.problem.structure)))
            for walk, folder in zip(campaign.walks, folders, strict=True)
        ]
        self._open: dict[int, Request] = {}
        self._ready: dict[int, Outcome] = {}
        self._replay: Mapping[int, Mapping[int, str | None]] = {}
        self._pace = Pace(campaign.config.labels.per_hour)

    @property
    def places(self) -> int:
        """Largest number of labels that are under way at a time."""
        limits = self._campaign.config.labels.in_flight, self._campaign.config.executor.places
        return min((limit for limit in limits if limit is not None), default=len(self._references))

    def reference(self, i: int) -> Reference:
        """Labels of a walker."""
        return self._references[i]

    def paid(self) -> int:
        """Number of finished reference calculations."""
        return sum(len(each.calls_before(2**62)) for each in self._references)

    def replay(self, taken: Mapping[int, Mapping[int, str | None]]) -> None:
        """Learn again what was learnt after the last checkpoint: by round and walker, with failures in words."""
        self._replay = taken

    def submit(self, i: int, request: Request) -> None:
        """Have a label calculated, unless it is known or under way.

        Raises:
          RunStoppedError: if the budget of labels is spent.
        """
        if i in self._open or i in self._ready:
            return
        known = self._references[i].known(request)
        if known is not None:
            self._ready[i] = Outcome(known)
            return
        self._refuse_spent(self._campaign.config.labels)
        self._open[i] = request
        self._pace.wait(self._look)
        self._dispatcher.submit((i, request.step), request.structure)

    def take(self, number: int, order: list[int], *, moving: bool, steps: tuple[int, int]) -> list[tuple[int, Outcome]]:
        """The labels that are learnt in a round, in the order of their requests.

        Args:
          number: of the round.
          order: walkers that have waited since an earlier round, in the order of their requests.
          moving: whether other walkers have something to do meanwhile.
          steps: done and all steps of the campaign, for the message if it is interrupted.

        Raises:
          EngineSetupError: if labels can never be calculated as configured.
          RunInterruptedError: if the end was requested.
        """
        again = self._replay.get(number)
        if again is not None:
            for i, failure in again.items():
                if failure is not None:
                    self._withdraw(i)
                    self._ready[i] = Outcome(None, failure)
        elif self._campaign.config.order == "arrival":
            self._look()
            if not moving and order:
                self._until(lambda: any(i in self._ready for i in order), steps)
        wanted = order if again is None else [i for i in order if i in again]
        if again is not None or self._campaign.config.order == "rounds":
            self._until(lambda: all(i in self._ready for i in wanted), steps)
        taken = [(i, self._ready.pop(i)) for i in wanted if i in self._ready]
        for i, _ in taken:
            self._open.pop(i, None)
        return taken

    def _withdraw(self, i: int) -> None:
        """Give a request up; what is calculated nevertheless stays where it was stored."""
        request = self._open.pop(i, None)
        if request is not None:
            self._dispatcher.cancel((i, request.step))

    def _until(self, done: Callable[[], bool], steps: tuple[int, int]) -> None:
        self._look()
        while not done():
            self._interruption.check(*steps, ", waiting for labels; those that are done are kept")
            self._dispatcher.wait(LOOK_S)
            self._look()

    def frames(
        self, asked: Mapping[tuple[int, int], Structure], store: Callable[[int, int, EngineResult], None]
    ) -> None:
        """Labels of random frames, by walker and step, each stored as soon as it is there.

        Raises:
          EngineError: if a frame cannot be labelled.
          RunInterruptedError: if the end was requested.
        """
        for (i, step), structure in asked.items():
            self._dispatcher.submit((_FRAME, i, step), structure)
        left = len(asked)
        while left:
            self._interruption.check(1, 1, f", {len(asked) - left} of {len(asked)} random frames")
            self._dispatcher.wait(LOOK_S)
            for arrival in self._dispatcher.done():
                match arrival.tag:
                    case (str(), int(i), int(step)):
                        store(i, step, arrival.outcome.value())
                        self._dispatcher.stored(arrival.outcome)
                        left -= 1

    def _look(self) -> None:
        """Store the labels that have come back."""
        for arrival in self._dispatcher.done():
            assert isinstance(arrival.tag, tuple)
            i, step = arrival.tag
            outcome, request = arrival.outcome, self._open.get(i)
            if request is None or request.step != step:
                continue  # given up meanwhile; the label is kept where it was stored
            reference = self._references[i]
            try:
                record = reference.believed(request, outcome.value())
            except (EngineFailedError, EngineRetryError) as error:
                self._ready[i] = Outcome(None, str(error))
            else:
                refused = f"label not believed: {reference.refused[-1].reason}" if record is None else None
                self._ready[i] = Outcome(record, refused)
            self._dispatcher.stored(outcome)

    def ask(self, requests: Mapping[int, Request]) -> dict[int, LabelRecord]:
        """Labels that the campaign cannot begin without, calculated together.

        Raises:
          EngineFailedError: if one of them cannot be calculated.
        """
        for i, request in requests.items():
            self.submit(i, request)
        self._until(lambda: all(i in self._ready for i in requests), (0, 1))
        found = {}
        for i in requests:
            self._open.pop(i, None)
            outcome = self._ready.pop(i)
            if outcome.record is None:
                name = self._campaign.walks[i].name
                raise EngineFailedError(f"first structure of walker {name}: {outcome.failure}")
            found[i] = outcome.record
        return found

    def _refuse_spent(self, limits: LabelsSettings) -> None:
        paid = [record for each in self._references for record in each.calls_before(2**62)]
        if len(paid) + len(self._open) >= limits.most:
            self._finish_open()
            raise RunStoppedError(
                f"labels.most = {limits.most} reference calculations are made or under way; raise it in the "
                "configuration and resume"
            )
        hours = sum(r.engine_seconds for r in paid) * limits.cores / 3600.0
        if limits.core_hours is not None and hours >= limits.core_hours:
            self._finish_open()
            raise RunStoppedError(
                f"{hours:.3g} core hours of reference calculations are spent (labels.core_hours = "
                f"{limits.core_hours:g}); raise it in the configuration and resume"
            )

    def _finish_open(self) -> None:
        """Wait for the labels that are under way, so that none of them is lost."""
        while any(i not in self._ready for i in self._open):
            self._dispatcher.wait(LOOK_S)
            self._look()
