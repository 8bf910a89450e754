"""Writes the ensemble of a campaign, which can be used without it."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from bayes_mlff.campaign.problem import Campaign
from bayes_mlff.campaign.state import CampaignState
from bayes_mlff.core import durable
from bayes_mlff.ensemble import atomic_energies, files, saved
from bayes_mlff.ensemble.atomic_energies import OwnLevels
from bayes_mlff.ensemble.saved import Ensemble
from bayes_mlff.otf.artefact import trained
from bayes_mlff.posterior import energy_zero
from bayes_mlff.runs import checkpoint
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.growing_files import write_whole


def ensemble(campaign: Campaign, state: CampaignState, name: str) -> Ensemble:
    """Make the ensemble of a campaign after a round.

    Its atomic reference energies are those of all compositions, also of labels that it began with, and its calibration
    that of the first walker.

    Args:
      campaign: constants of the campaign.
      state: state of the campaign.
      name: of the campaign, for the provenance.
    """
    shared, first = state.arrays.shared, campaign.walks[0]
    about = {"campaign": name, "labels": str(int(shared.training_set.count)), "walkers": str(len(campaign.walks))}
    host, structure = state.view(0, first.law).host, first.problem.structure
    made = trained(first.problem.config, first.problem.potential, jnp.asarray(shared.params), host, structure, about)
    sample = energy_zero.split(jnp.asarray(shared.params))
    offset = _offsets(campaign, state)
    counts = np.array(list(offset))
    above = np.array(list(offset.values()))[None, :] - np.asarray(sample.zero, np.float64)[:, None]
    per_atom, known = atomic_energies.per_atom(counts, above), atomic_energies.independent(counts)
    own = None
    if campaign.config.levels == "structure" and len(known) < len(counts):
        own = OwnLevels(counts, above)
    return made._replace(offset_ev=per_atom, compositions=known, own=own)


def _offsets(campaign: Campaign, state: CampaignState) -> dict[tuple[int, ...], float]:
    """Offset of the reference, eV, of every composition that was labelled, by its number of atoms of each element."""
    elements = campaign.common.potential.config.elements
    structures = [record.structure for record in campaign.given.labels]
    offsets = [campaign.given.offset_ev(structure.numbers) for structure in structures]
    structures += [walk.problem.structure for walk in campaign.walks]
    offsets += [walker.host.offset_ev for walker in state.walkers]
    counts = [tuple(atomic_energies.composition(np.asarray(each.numbers), elements)) for each in structures]
    return dict(zip(counts, offsets, strict=True))


class Artefact:
    """Writes the ensemble of a campaign next to its checkpoints."""

    def __init__(self, campaign: Campaign, directory: RunDirectory):
        self._campaign, self._directory = campaign, directory
        self._last: tuple[Ensemble, Path] | None = None

    def keep(self, state: CampaignState) -> None:
        """Write the ensemble that belongs to the checkpoint of this state; a hard link if nothing was learnt."""
        made = ensemble(self._campaign, state, self._directory.path.name)
        target = files.beside(checkpoint.at(self._directory.checkpoints, state.round))
        last = self._last
        if last is None or not saved.same(last[0], made) or not (last[1] == target or durable.link(last[1], target)):
            write_whole(target, saved.serialised(made))
        self._last = made, target

    def publish(self, walkers: tuple[RunDirectory, ...]) -> None:
        """Copy the newest ensemble to the directory of the campaign and to those of its walkers."""
        newest = files.kept(self._directory.checkpoints)
        if newest is None:
            return
        content = newest.read_bytes()
        for path in (self._directory.path, *(each.path for each in walkers)):
            write_whole(path / files.NAME, content)
