"""Random frames of all walkers, labelled at the end of a campaign: unlike its labels they are unbiased."""

from bayes_mlff.campaign.folders import Folders
from bayes_mlff.campaign.labels import Requests
from bayes_mlff.campaign.problem import Campaign
from bayes_mlff.campaign.state import CampaignState, Observer
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.structure import Structure
from bayes_mlff.engines.engine import Engine, EngineResult
from bayes_mlff.otf.validate import Comparison, as_labelled, random_frames, record_of, stored


def validate(
    campaign: Campaign, engine: Engine, folders: Folders, requests: Requests, state: CampaignState, observer: Observer
) -> None:
    """Label `run.validation_frames` random frames of every walker, and compare with the final and the pretrained model.

    Args:
      campaign: constants of the campaign.
      engine: the reference, for its description.
      folders: open directories; `validation.extxyz` and `validation.npz` of every walker are written.
      requests: calculate the labels.
      state: final state of the campaign.
      observer: receives reports about the progress.

    Raises:
      RunInterruptedError: if the end was requested; all frames so far are on the disk.
      EngineError: if a frame cannot be labelled; another call continues with the remaining frames.
    """
    chosen: dict[tuple[int, int], Structure] = {}
    known: dict[tuple[int, int], LabelRecord] = {}
    for i, walk in enumerate(campaign.walks):
        directory, config = folders.of(i), walk.problem.config
        if config.validation_frames and directory.trajectory.exists():
            labelled = list(requests.reference(i).labels)
            frames = random_frames(directory, config.validation_frames, config.seed, labelled)
            chosen |= {(i, step): as_labelled(walk.problem, frame) for step, frame in frames}
        if directory.validation.exists():
            dataset.recover(directory.validation)
            known |= {(i, record.step): record for record in dataset.read(directory.validation)}
    if not chosen:
        return

    def store(i: int, step: int, result: EngineResult) -> None:
        problem, offset = campaign.walks[i].problem, state.walkers[i].host.offset_ev
        record = record_of(problem, engine, step, chosen[i, step], offset, result)
        dataset.append(folders.of(i).validation, record)
        folders.of(i).log("random_frame", step=step, engine_s=round(result.seconds, 3))
        known[i, step] = record

    observer.working(f"reference energies of {len(chosen)} random frames")
    requests.frames({key: structure for key, structure in chosen.items() if key not in known}, store)
    compare = [Comparison(group.problem) for group in campaign.groups]
    for i, walk in enumerate(campaign.walks):
        view = state.view(i, walk.law)
        mine = [key for key in chosen if key[0] == i]
        if mine:
            stored(folders.of(i), [(k[1], *compare[walk.group](view, chosen[k], known[k])) for k in mine])
