"""What walkers do between labels: they move, stop, wait, finish a step, go back, or are set aside."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.campaign.dynamics import GroupDynamics, Task, cut, last_step, one_step
from bayes_mlff.campaign.folders import Folders
from bayes_mlff.campaign.labels import Requests
from bayes_mlff.campaign.problem import Campaign
from bayes_mlff.campaign.state import Arrays, CampaignState, Observer, Waiting, Walker
from bayes_mlff.core.errors import RunStoppedError
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.ensemble.triggers import Trigger
from bayes_mlff.md.chunk import Stop
from bayes_mlff.otf import course, criteria, crowding, guards, storm
from bayes_mlff.otf.dynamics import Ran
from bayes_mlff.otf.problem import pretrained_energy, recording
from bayes_mlff.otf.state import HostState, Setback, recentred


class Walkers:
    """Moves the walkers of a campaign and keeps their files; every method returns the state afterwards."""

    def __init__(self, campaign: Campaign, folders: Folders, requests: Requests, observer: Observer):
        self.campaign, self._folders, self._requests, self._observer = campaign, folders, requests, observer
        self.dynamics = [GroupDynamics(group) for group in campaign.groups]
        self.pretrained = [pretrained_energy(group.problem) for group in campaign.groups]
        each = zip(campaign.walks, folders.walkers, strict=True)
        self._files = [course.Files(walk.problem, run, recording(walk.problem)) for walk, run in each]
        self.spent_s, self.steps = 0.0, 0  # of the dynamics of the last round

    def moves(self, state: CampaignState, i: int) -> bool:
        """Whether a walker takes steps in the next round."""
        walker, n_steps = state.walkers[i], self.campaign.walks[i].problem.config.n_steps
        return walker.waiting is None and walker.aside is None and walker.host.step < n_steps

    def moved(self, state: CampaignState) -> CampaignState:
        """Move all walkers that do not wait, each until it stops, for at most one chunk."""
        self.spent_s, self.steps = 0.0, 0
        for number, group in enumerate(self.campaign.groups):
            moving = [i for i in group.walkers if self.moves(state, i)]
            if not moving:
                continue
            started = time.perf_counter()
            state = self._recentred(state, moving)
            tasks = [self._task(state, i, group.walkers.index(i)) for i in moving]
            each = dict(zip(moving, self.dynamics[number].run(state.arrays.shared, tasks), strict=True))
            seconds = time.perf_counter() - started
            crowded = {i: ran for i, ran in each.items() if ran.tripped is None and Stop.NEIGHBOR_OVERFLOW in ran.stop}
            if crowded:
                state = self._grown(state, group.walkers, crowded)
                continue
            self.spent_s += seconds
            for i, ran in each.items():
                self.steps += ran.steps
                state = self._kept(state, i, ran, seconds / len(each))
        return state

    def _task(self, state: CampaignState, i: int, place: int) -> Task:
        walk = self.campaign.walks[i]
        view = state.view(i, walk.law)
        triggers = criteria.triggers(walk.problem, view.host)
        return Task(place, view, course.ahead(walk.problem, view, self._requests.reference(i), triggers))

    def _kept(self, state: CampaignState, i: int, ran: Ran, seconds: float) -> CampaignState:
        """Write what one walker has done, and request a label or go back if it has stopped."""
        walk, own = self.campaign.walks[i], state.arrays.walkers[i]
        view, chunk = state.view(i, walk.law), ran.chunk
        step = view.host.step + ran.steps
        if ran.tripped is not None:
            return self.rolled_back(state, i, ran, Setback(step, "guard", ran.tripped))
        alone = ran.steps - ran.labelled
        self._files[i].chunk(step, ran, seconds)
        anchor = guards.anchored(walk.problem.config, view.host, chunk, alone)
        self._files[i].steps(view.host, ran._replace(chunk=cut(chunk, alone) if ran.labelled else chunk), alone)
        host = view.host._replace(step=step, anchor=anchor)
        arrays = own._replace(md=chunk.md, neighbors=chunk.neighbors)
        if not ran.labelled:
            return state.with_walker(i, Walker(host), arrays)
        return self._requested(state, i, host, arrays, ran)

    def _requested(self, state: CampaignState, i: int, host: HostState, arrays: Arrays, ran: Ran) -> CampaignState:
        """Let a walker wait for a label of the geometry at which it has stopped."""
        walk, reference = self.campaign.walks[i], self._requests.reference(i)
        calls = reference.calls_before(host.step)
        try:
            present = criteria.criteria(walk.problem, host.step)
            storm.refuse_storm(walk.problem.config.guards, calls, host.step, present)
        except RunStoppedError as error:
            return self._set_aside(state, i, str(error))
        waiting = Waiting(
            state.requests,
            "audit" if Stop.AUDIT in ran.stop else "uncertain",
            self.pretrained[walk.group](arrays.neighbors.graph),
            host.calibration,
            ran.readings,
            tuple(map(bool, np.asarray(ran.chunk.asked))),
        )
        self._folders.of(i).log("requested", step=host.step, reason=waiting.reason, asked=list(waiting.asked))
        state = state._replace(requests=state.requests + 1)
        return state.with_walker(i, Walker(host, waiting), arrays._replace(open=last_step(ran.chunk)))

    def _grown(self, state: CampaignState, members: tuple[int, ...], crowded: dict[int, Ran]) -> CampaignState:
        """The state before the chunk, with larger neighbour lists of the whole group."""
        problem = self.campaign.walks[members[0]].problem
        elements, spec = problem.potential.config.elements, state.walkers[members[0]].host.spec
        for i, ran in crowded.items():
            own = self.campaign.walks[i].problem
            spec = crowding.larger(spec, elements, crowding.structure_of(own, ran.chunk.md, state.walkers[i].host))
        present = []
        for i in members:
            own, host = self.campaign.walks[i].problem, state.walkers[i].host
            present.append((crowding.structure_of(own, state.arrays.walkers[i].md, host), host.origin))
        spec, lists = crowding.roomier(spec, elements, present)
        self._folders.log("neighbors_grown", round=state.round, capacity=spec.capacity, images=list(spec.images))
        return state.with_neighbors(members, spec, lists)

    def _recentred(self, state: CampaignState, moving: list[int]) -> CampaignState:
        for i in moving:
            view = state.view(i, self.campaign.walks[i].law)
            moved = recentred(view)
            if moved is not view:
                device = moved.device
                own = state.arrays.walkers[i]._replace(md=device.md, trusted=device.trusted, neighbors=device.neighbors)
                state = state.with_walker(i, Walker(moved.host), own)
        return state

    def finished(self, state: CampaignState, i: int, record: LabelRecord) -> CampaignState:
        """Finish the step of a walker with the forces of its label."""
        problem, own, host = self.campaign.walks[i].problem, state.arrays.walkers[i], state.walkers[i].host
        md, opened = course.finished(problem, own.md, record.label), self.reopened(state, i)
        if not guards.is_finite(md):
            return self.rolled_back(state, i, opened, Setback(host.step, "guard", guards.UNSOUND))
        host = course.trusted(problem, host, record)
        self._files[i].steps(host._replace(step=host.step - 1), opened, 1, md, host.trusted_ev)
        return state.with_walker(i, Walker(host), own._replace(md=md, trusted=md, open=_zeros(own.open)))

    def spared(self, state: CampaignState, i: int) -> CampaignState:
        """Finish the step of a walker with the forces of the model, which has become certain."""
        own, walk, host = state.arrays.walkers[i], self.campaign.walks[i], state.walkers[i].host
        predictive = own.open.predictive
        stress = None if predictive.stress_mean is None else predictive.stress_mean[0]
        md = walk.problem.integrator.finish(own.md, predictive.forces_mean[0], stress)
        self._folders.of(i).log("spared", step=host.step)
        self._files[i].steps(host._replace(step=host.step - 1), self.reopened(state, i), 1, md)
        state = state._replace(spared=state.spared + 1)
        return state.with_walker(i, Walker(host), own._replace(md=md, open=_zeros(own.open)))

    def rolled_back(self, state: CampaignState, i: int, ran: Ran, setback: Setback) -> CampaignState:
        """Return to the trusted state of a walker; after too many roll-backs it is set aside."""
        walk, view, own = self.campaign.walks[i], state.view(i, self.campaign.walks[i].law), state.arrays.walkers[i]
        try:
            back, last = course.returned(walk.problem, view, setback, self._requests.reference(i))
        except RunStoppedError as error:
            return self._set_aside(state, i, str(error))
        self._observer.say(f"  {walk.name}, step {setback.step}: back to step {last}: {setback.reason}")
        before = view.host if state.walkers[i].waiting is None else view.host._replace(step=view.host.step - 1)
        self._files[i].back(before, ran, back, last)
        device = back.device
        arrays = own._replace(md=device.md, neighbors=device.neighbors, open=_zeros(own.open))
        return state.with_walker(i, Walker(back.host), arrays)

    def _set_aside(self, state: CampaignState, i: int, reason: str) -> CampaignState:
        """Leave a walker where it is, since it cannot go on, while the others do."""
        name, walker = self.campaign.walks[i].name, state.walkers[i]
        self._observer.say(f"  {name} is set aside: {reason}")
        self._folders.of(i).log("stopped", step=walker.host.step, reason=reason)
        self._folders.log("set_aside", round=state.round, walker=name, step=walker.host.step, reason=reason)
        return state.with_walker(i, Walker(walker.host, None, reason))

    def reopened(self, state: CampaignState, i: int) -> Ran:
        """The step that waits for a label, as a chunk of one step."""
        own, waiting, walk = state.arrays.walkers[i], state.walkers[i].request, self.campaign.walks[i]
        host = state.walkers[i].host
        present = criteria.criteria(walk.problem, host.step)
        pairs = zip(present, waiting.readings, strict=True)
        triggers = tuple(Trigger(criterion.statistic, reading.limit) for criterion, reading in pairs)
        chunk = one_step(own, Stop.AUDIT if waiting.reason == "audit" else Stop.UNCERTAIN)
        return Ran(chunk, triggers, waiting.readings, None)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)
