"""The state of a campaign before its first round: from a checkpoint, or from the first labels."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from bayes_mlff.campaign.dynamics import nothing_open
from bayes_mlff.campaign.folders import Folders
from bayes_mlff.campaign.labels import Requests
from bayes_mlff.campaign.learning import Learner
from bayes_mlff.campaign.problem import Campaign, Walk
from bayes_mlff.campaign.state import Arrays, CampaignState, DeviceArrays, Laws, Observer, Shared, Walker
from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.graph import Graph
from bayes_mlff.data.label_notes import GIVEN, INITIAL
from bayes_mlff.data.readings import ENERGY
from bayes_mlff.ensemble import atomic_energies
from bayes_mlff.otf import audits, carried, course, criteria, crowding
from bayes_mlff.otf.learning import with_label
from bayes_mlff.otf.problem import begun_chains, first_dynamics, first_origin
from bayes_mlff.otf.reference import Request, same_geometry
from bayes_mlff.otf.state import HostState
from bayes_mlff.posterior import energy_zero
from bayes_mlff.posterior.training_set import TrainingSet
from bayes_mlff.runs import checkpoint


class Beginning:
    """Makes the first state of a session."""

    def __init__(
        self,
        campaign: Campaign,
        folders: Folders,
        requests: Requests,
        learner: Learner,
        pretrained: Sequence[Callable[[Graph], float]],
        observer: Observer,
    ):
        self._campaign, self._folders, self._requests, self._learner = campaign, folders, requests, learner
        self._pretrained, self._observer = pretrained, observer

    def from_checkpoint(self) -> CampaignState | None:
        """The state of the newest intact checkpoint; None if there is none at all.

        Raises:
          RunDirectoryError: if it does not fit.
        """
        folder = self._folders.own.checkpoints
        if not any(folder.glob("*.ckpt")):
            return None
        arrays, metadata, remarks = checkpoint.newest(folder)
        for remark in remarks:
            self._folders.log("checkpoint_skipped", remark=remark)
        if len(metadata["walkers"]) != len(self._campaign.walks):
            raise RunDirectoryError("checkpoint: another number of walkers than configured")
        device = checkpoint.restore(self.template().arrays, arrays)
        state = CampaignState.from_json(device, metadata)
        self._folders.truncate(metadata["files"])
        self._folders.log("resumed", round=state.round)
        return state

    def start(self) -> CampaignState:
        """Label the first structures, set the energy offsets, and sample the posterior."""
        state, campaign = self.template(), self._campaign
        walks, structures = campaign.walks, [walk.problem.structure for walk in campaign.walks]
        firsts = [_same_as(structures, i) for i in range(len(walks))]
        requests, before, shared = {}, {}, self._with_samples(state.arrays.shared)
        for i, walk in enumerate(walks):
            graph = state.arrays.walkers[i].neighbors.graph
            pretrained = before[i] = self._pretrained[walk.group](graph)
            if campaign.given.ensemble is not None:
                before[i] = walk.problem.scale().network_to_total(self._learner.energy(shared.params, graph))
            if firsts[i] == i:
                law = state.laws[walk.law].calibrations[ENERGY]
                requests[i] = Request(0, INITIAL, structures[i], pretrained, 0.0, law)
        self._observer.working(f"reference calculation of {len(requests)} first structures")
        records = self._requests.ask(requests)
        offsets = self._offsets(before, records)
        new = {i: record for i, record in records.items() if record.reason != GIVEN}
        shared = shared._replace(training_set=self._with_labels(shared.training_set))
        for i, record in new.items():
            known = with_label(walks[i].problem, shared.training_set, record, offsets[i])
            shared = shared._replace(training_set=known)
        self._observer.working("first samples of the posterior")
        least = min(walk.problem.threshold_ev for walk in walks)
        shared, numbers = self._learner.update(shared, len(new), least)
        self._folders.log("update", round=0, learnt=len(new), **numbers)
        state = state._replace(arrays=state.arrays._replace(shared=shared))
        for i, walk in enumerate(walks):
            record = records[firsts[i]]
            if firsts[i] != i:
                self._copied(i, record)
            state = self._begun(state, i, walk, record, offsets[i])
        return state

    def _copied(self, i: int, record: LabelRecord) -> None:
        """Give a walker the label of another one that begins with the same structure."""
        reference = self._requests.reference(i)
        if 0 not in reference.labels:
            own = record._replace(reason=GIVEN, engine_seconds=0.0)
            dataset.append(self._folders.of(i).dataset, own)
            reference.labels[0] = own

    def _begun(self, state: CampaignState, i: int, walk: Walk, record: LabelRecord, offset_ev: float) -> CampaignState:
        own, walker, config = state.arrays.walkers[i], state.walkers[i], walk.problem.config
        md = course.begun(own.md, record.label)
        clock = audits.draw(config.seed, 0, 0, config.audit_steps)
        trusted = walk.problem.scale(offset_ev).reference_to_total(record.label.energy)
        host = walker.host._replace(offset_ev=offset_ev, trusted_ev=trusted, clock=clock)
        self._folders.of(i).log("run_started", step=0, n_steps=config.n_steps)
        return state.with_walker(i, Walker(host), own._replace(md=md, trusted=md))

    def _offsets(self, before: dict[int, float], records: dict[int, LabelRecord]) -> list[float]:
        """Energy of the model minus reference, eV, of all walkers; see `CampaignConfig.levels`.

        Args:
          before: energies of the model of the first structures, eV, by walker.
          records: their labels.
        """
        walks, given = self._campaign.walks, self._campaign.given
        elements = self._campaign.common.potential.config.elements
        numbers = [np.asarray(walk.problem.structure.numbers) for walk in walks]
        counts = np.array([atomic_energies.composition(each, elements) for each in numbers])
        by_elements = self._campaign.config.levels == "element"
        new = {i: record for i, record in records.items() if not given.knows(numbers[i], by_elements=by_elements)}
        above = {i: before[i] - record.label.energy for i, record in new.items()}
        if not by_elements:
            found: dict[bytes, list[float]] = {}
            for i, offset in above.items():
                found.setdefault(counts[i].tobytes(), []).append(offset)
            known = {key: float(np.mean(each)) for key, each in found.items()}
            return [
                known[counts[i].tobytes()] if counts[i].tobytes() in known else given.offset_ev(each)
                for i, each in enumerate(numbers)
            ]
        learnt = given.compositions(elements)
        earlier = [given.offset_ev(np.repeat(elements, row)) for row in learnt]
        rows = np.concatenate([learnt, counts[list(above)]])
        per_atom = atomic_energies.per_atom(rows, np.array([*earlier, *above.values()]))
        known = [given.knows(each, by_elements=True) for each in numbers]
        return [
            given.offset_ev(each) if told else float(row @ per_atom)
            for each, row, told in zip(numbers, counts, known, strict=True)
        ]

    def _with_samples(self, shared: Shared) -> Shared:
        """What all walkers share, with the samples that the campaign was given."""
        campaign, given = self._campaign, self._campaign.given
        if given.ensemble is None:
            return shared
        _, key, key_chains = jax.random.split(jax.random.key(campaign.config.seed), 3)
        made = carried.parameters(given.ensemble, campaign.common, 0.0, jax.random.fold_in(key, 1))
        params = energy_zero.joined(energy_zero.split(made).weights)  # zeros are drawn when the labels are learnt
        return shared._replace(params=params, chains=begun_chains(campaign.common, params, key_chains))

    def _with_labels(self, known: TrainingSet) -> TrainingSet:
        """The training set with the labels that the campaign was given."""
        campaign, given = self._campaign, self._campaign.given
        for record in given.labels:
            problem = campaign.problem_of(record.structure)
            known = with_label(problem, known, record, given.offset_ev(np.asarray(record.structure.numbers)))
        if given.labels:
            self._folders.log("started_from", labels=len(given.labels))
        return known

    def template(self) -> CampaignState:
        """All walkers at their first structures, with velocities, and no labels."""
        shared = self._learner.first(self._campaign.config.seed)
        laws: dict[str, Laws] = {}
        arrays: list[Arrays] = []
        walkers: list[Walker] = []
        for walk in self._campaign.walks:
            key, _, _ = jax.random.split(jax.random.key(walk.problem.config.seed), 3)
            spec, near, md = first_dynamics(walk.problem, key)
            host = HostState(0, 0.0, criteria.priors(walk.problem), spec, origin=first_origin(walk.problem))
            laws.setdefault(walk.law, Laws(host.calibrations, {}))
            arrays.append(Arrays(md, md, near, None))  # pyright: ignore[reportArgumentType]
            walkers.append(Walker(host._replace(calibrations={})))
        state = CampaignState(DeviceArrays(shared, tuple(arrays)), tuple(walkers), laws)
        for group in self._campaign.groups:
            state = self._alike(state, group.walkers)
        for i, walk in enumerate(self._campaign.walks):
            view = state.view(i, walk.law)
            opened = nothing_open(walk.problem, shared, view, criteria.triggers(walk.problem, view.host))
            state = state.with_walker(i, None, state.arrays.walkers[i]._replace(open=opened))
        return state

    def _alike(self, state: CampaignState, members: tuple[int, ...]) -> CampaignState:
        """Give the walkers of a group neighbour lists of the same size."""
        specs = [state.walkers[i].host.spec for i in members]
        images = tuple(max(each) for each in zip(*(spec.images for spec in specs), strict=True))
        spec = specs[0]._replace(capacity=max(s.capacity for s in specs), images=images)
        walks = [self._campaign.walks[i] for i in members]
        present = [(w.problem.structure, state.walkers[i].host.origin) for i, w in zip(members, walks, strict=True)]
        spec, lists = crowding.roomier(spec, walks[0].problem.potential.config.elements, present)
        return state.with_neighbors(members, spec, lists)


def _same_as(structures: Sequence, i: int) -> int:
    """The first structure that is the same as structure i, with the same charge and spin."""
    here = structures[i]
    return next(
        j
        for j, other in enumerate(structures[: i + 1])
        if j == i or (other.electronic == here.electronic and same_geometry(other, here))
    )
