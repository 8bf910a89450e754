"""The loop of a campaign: all walkers move, labels are calculated beside them, one update learns what has come back."""

import contextlib

from bayes_mlff.campaign.beginning import Beginning
from bayes_mlff.campaign.folders import Folders
from bayes_mlff.campaign.labels import Outcome, Requests
from bayes_mlff.campaign.learning import Learner
from bayes_mlff.campaign.problem import Campaign
from bayes_mlff.campaign.state import CampaignState, Laws, Observer, OfWalker, Progress
from bayes_mlff.campaign.walking import Walkers
from bayes_mlff.core.errors import EngineError, RunDirectoryError, RunInterruptedError, RunStoppedError
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.ensemble import triggers as triggering
from bayes_mlff.otf import calibrating, criteria, crowding
from bayes_mlff.otf.calibrating import Told
from bayes_mlff.otf.learning import with_label
from bayes_mlff.otf.reference import Request
from bayes_mlff.otf.state import Setback
from bayes_mlff.runs.interruption import Interruption


class Session:
    """The work of one process on one campaign."""

    def __init__(
        self,
        campaign: Campaign,
        folders: Folders,
        requests: Requests,
        observer: Observer,
        interruption: Interruption | None = None,
    ):
        self.campaign, self._folders, self._observer = campaign, folders, observer
        self._interruption, self._requests = interruption or Interruption(), requests
        self._learner = Learner(campaign, self._interruption)
        self.walkers = Walkers(campaign, folders, requests, observer)

    def resume(self) -> CampaignState:
        """Continue from the newest intact checkpoint, or begin if there is none yet.

        Raises:
          RunDirectoryError: if the checkpoints do not fit.
          EngineError: if the first structures get no label.
        """
        parts = self.campaign, self._folders, self._requests, self._learner, self.walkers.pretrained, self._observer
        beginning = Beginning(*parts)
        state = beginning.from_checkpoint()
        if state is None:
            state = beginning.start()
            self._folders.commit(state, self._interruption)
        self._requests.replay(self._folders.taken_after(state.round))
        return state

    def finish(self, state: CampaignState) -> CampaignState:
        """Run until every walker is done or set aside.

        Raises:
          RunStoppedError: if the campaign cannot continue without a decision of the user.
          EngineSetupError: if labels can never be calculated as configured.
          RunInterruptedError: if the end of the campaign was requested.
        """
        everyone = range(len(state.walkers))
        self._folders.log("session_begins", round=state.round)
        try:
            self._submit(state)
            while any(self.walkers.moves(state, i) or _waits(state, i) for i in everyone):
                self._interruption.check(*self._steps(state))
                state = self.advance(state)
        except (RunStoppedError, RunInterruptedError, EngineError) as error:
            if isinstance(error, RunStoppedError):
                self._folders.log("stopped", round=state.round, reason=str(error))
            with contextlib.suppress(RunDirectoryError):  # what ended it matters more than one more copy
                self._folders.publish()
            raise
        self._folders.publish()
        for i in everyone:
            if state.walkers[i].aside is None:
                labels = len(self._requests.reference(i).labels)
                self._folders.of(i).log("finished", step=state.walkers[i].host.step, labels=labels)
        self._folders.log("finished", round=state.round, labels=self._requests.paid())
        return state

    def advance(self, state: CampaignState) -> CampaignState:
        """One round: dynamics of all that move, then the labels that are due, then new requests."""
        everyone = range(len(state.walkers))
        due = [i for i in everyone if _is_submitted(state, i)]
        order = sorted(due, key=lambda i: state.walkers[i].request.number)
        state = self.walkers.moved(state._replace(round=state.round + 1))
        moving = any(self.walkers.moves(state, i) for i in everyone)
        if order and not moving:
            self._observer.working(f"waiting for labels: {len(order)} under way")
        taken = self._requests.take(state.round, order, moving=moving, steps=self._steps(state))
        state = self._learnt(state, taken)
        if taken and self.campaign.config.labels.ask_again:
            state = self._asked_again(state)
        state = self._chosen(state)
        self._folders.commit(state, self._interruption)
        self._submit(state)
        self._report(state)
        return state

    def _learnt(self, state: CampaignState, taken: list[tuple[int, Outcome]]) -> CampaignState:
        """Learn the labels that have come back in one update, and finish the steps that waited for them."""
        if not taken:
            return state
        names = [(self.campaign.walks[i].name, state.walkers[i].host.step, got.failure) for i, got in taken]
        self._folders.log("taken", round=state.round, labels=names)
        records = [(i, got.record) for i, got in taken if got.record is not None]
        for i, record in records:
            state = self._calibrated(state, i, record)
        if records:
            state = self._updated(state, records)
        for i, got in taken:
            if got.record is not None:
                state = self.walkers.finished(state, i, got.record)
            else:
                setback = Setback(state.walkers[i].host.step, "reference", got.failure or "no label")
                state = self.walkers.rolled_back(state, i, self.walkers.reopened(state, i), setback)
        return state

    def _calibrated(self, state: CampaignState, i: int, record: LabelRecord) -> CampaignState:
        """Update the laws of errors with one label, whose prediction is that of the posterior that requested it."""
        walk, waiting = self.campaign.walks[i], state.walkers[i].request
        told = Told(record, waiting.reason == "audit", waiting.above)
        observer, directory = OfWalker(self._observer, walk.name), self._folders.of(i)
        after = calibrating.calibrated(walk.problem, directory, observer, state.view(i, walk.law).host, told)
        return state._replace(laws={**state.laws, walk.law: Laws(after.calibrations, after.scores)})

    def _updated(self, state: CampaignState, records: list[tuple[int, LabelRecord]]) -> CampaignState:
        """Add labels to the training set, and continue the samples once for all of them."""
        shared = state.arrays.shared
        for i, record in records:
            walk, offset = self.campaign.walks[i], state.walkers[i].host.offset_ev
            known = with_label(walk.problem, shared.training_set, record, offset)
            shared = shared._replace(training_set=known)
        self._observer.working(f"learning {len(records)} label{'s' if len(records) > 1 else ''}")
        least = min(float(criteria.threshold_ev(self.campaign.walks[i].problem, r.step)) for i, r in records)
        shared, numbers = self._learner.update(shared, len(records), least)
        self._folders.log("update", round=state.round, learnt=len(records), **numbers)
        for i, record in records:
            share = {**numbers, "seconds": round(numbers["seconds"] / len(records), 3)}
            self._folders.of(i).log("update", step=record.step, **share)
        return state._replace(arrays=state.arrays._replace(shared=shared))

    def _asked_again(self, state: CampaignState) -> CampaignState:
        """Ask the model, which has learnt other labels, about geometries that wait for a place."""
        for i in range(len(state.walkers)):
            if not _waits(state, i) or _is_submitted(state, i) or state.walkers[i].request.reason == "audit":
                continue
            walk, walker, own = self.campaign.walks[i], state.walkers[i], state.arrays.walkers[i]
            host = state.view(i, walk.law).host
            present = criteria.triggers(walk.problem, host._replace(step=host.step - 1))
            triggers = tuple(trigger.at(0) for trigger in present)
            dynamics = self.walkers.dynamics[walk.group]
            found = dynamics.ask(state.arrays.shared, own.neighbors.graph, triggers)
            thermo = own.open.thermo._replace(
                potential=found.predictive.energy_mean,
                statistics=found.measured.sigma[None],
                dof=found.measured.dof[None],
                place=found.measured.place[None].astype(own.md.position.dtype),
            )
            own = own._replace(open=own.open._replace(predictive=found.predictive, thermo=thermo))
            readings = triggering.readings(triggers, found.measured)
            again = walker.request._replace(readings=readings, above=found.above, law=host.calibration)
            state = state.with_walker(i, walker._replace(waiting=again), own)
            if not any(found.above):
                state = self.walkers.spared(state, i)
        return state

    def _chosen(self, state: CampaignState) -> CampaignState:
        """Mark the requests that the executor gets next: audits, then those of walkers with the fewest labels."""
        waiting = [i for i in range(len(state.walkers)) if _waits(state, i)]
        new = [i for i in waiting if not _is_submitted(state, i)]
        places = self._requests.places - (len(waiting) - len(new))

        def turn(i: int) -> tuple[bool, int, int]:
            request = state.walkers[i].request
            return request.reason != "audit", len(self._requests.reference(i).labels), request.number

        for i in sorted(new, key=turn)[: max(places, 0)]:
            walker = state.walkers[i]
            state = state.with_walker(i, walker._replace(waiting=walker.request._replace(submitted=True)))
        return state

    def _submit(self, state: CampaignState) -> None:
        """Give the chosen requests to the executor; those that it has already are left alone."""
        chosen = [i for i in range(len(state.walkers)) if _is_submitted(state, i)]
        for i in sorted(chosen, key=lambda i: state.walkers[i].request.number):
            self._requests.submit(i, self._request(state, i))

    def _request(self, state: CampaignState, i: int) -> Request:
        walk, walker, own = self.campaign.walks[i], state.walkers[i], state.arrays.walkers[i]
        waiting = walker.request
        return Request(
            walker.host.step,
            waiting.reason,
            crowding.structure_of(walk.problem, own.md, walker.host),
            waiting.pretrained,
            walker.host.offset_ev,
            waiting.law,
            own.open.predictive,
            waiting.readings,
            waiting.asked,
        )

    def _steps(self, state: CampaignState) -> tuple[int, int]:
        """Number of steps of all walkers: done, and in all."""
        total = sum(walk.problem.config.n_steps for walk in self.campaign.walks)
        return sum(walker.host.step for walker in state.walkers), total

    def _report(self, state: CampaignState) -> None:
        each = [walk.problem.config.dynamics for walk in self.campaign.walks]
        done = sum(w.host.step * d.timestep_fs for w, d in zip(state.walkers, each, strict=True)) / 1000.0
        everyone = range(len(state.walkers))
        moving = sum(self.walkers.moves(state, i) for i in everyone)
        waiting, aside = sum(_waits(state, i) for i in everyone), sum(w.aside is not None for w in state.walkers)
        now = Progress(
            time_ps=done,
            duration_ps=sum(d.duration_ps for d in each),
            steps=self.walkers.steps,
            seconds=round(self.walkers.spent_s, 4),
            moving=moving,
            waiting=waiting,
            done=len(state.walkers) - moving - waiting - aside,
            aside=aside,
            labels=self._requests.paid(),
        )
        compiled = sum(each.compiled for each in self.walkers.dynamics)
        self._folders.log("round", round=state.round, compiled=compiled, spared=state.spared, **now._asdict())
        self._observer.progress(now)


def _waits(state: CampaignState, i: int) -> bool:
    return state.walkers[i].waiting is not None


def _is_submitted(state: CampaignState, i: int) -> bool:
    waiting = state.walkers[i].waiting
    return waiting is not None and waiting.submitted
