"""The directory of a campaign: its checkpoints, events and ensemble, and a run directory for each walker."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayes_mlff.campaign import artefact, given
from bayes_mlff.campaign.layout import MARK, SPOOL, WALKERS
from bayes_mlff.campaign.problem import Campaign
from bayes_mlff.campaign.state import CampaignState
from bayes_mlff.core import durable, settings
from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.runs import checkpoint
from bayes_mlff.runs import start as starts
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.growing_files import write_whole, writing
from bayes_mlff.runs.interruption import SAVING_S, Interruption


class Folders:
    """Files of a campaign and of all of its walkers; locks are held while they are open."""

    def __init__(self, path: Path, campaign: Campaign):
        self.path, self._campaign = path, campaign
        self.own = RunDirectory(path)
        kept = self.own.checkpoints
        self.walkers = tuple(RunDirectory(path / WALKERS / w.name, checkpoints=kept) for w in campaign.walks)
        self._artefact = artefact.Artefact(campaign, self.own)

    @property
    def spool(self) -> Path:
        """Folder of labels that were calculated and not yet learnt."""
        return self.path / SPOOL

    def create(self, config_text: str) -> None:
        """Make the directories.

        Raises:
          RunDirectoryError: if there is a campaign already, or they cannot be written.
        """
        with writing(self.path):
            durable.make_folder(self.path / WALKERS)
            durable.make_folder(self.spool)
        for walk, directory in zip(self._campaign.walks, self.walkers, strict=True):
            if not directory.config.exists():  # else a process was killed here
                with writing(self.path):
                    durable.make_folder(directory.path)
                directory.create(settings.dump(walk.problem.config), starts.contents(walk.start))
        if not (self.path / MARK).is_file():
            self.own.config.unlink(missing_ok=True)  # of a process that was killed here: it may have been given less
            self.own.create(config_text, self._campaign.given.files())
        taken = given.digests(self.path, self._campaign.given)
        about = {"format": 1, "walkers": [walk.name for walk in self._campaign.walks], "taken": taken}
        write_whole(self.path / MARK, (json.dumps(about, indent=2) + "\n").encode())  # last: with it, it is a campaign

    def put_in_force(self, config_text: str) -> None:
        """Store the settings that are used, of the campaign and of its walkers."""
        self.own.put_in_force(config_text)
        for walk, directory in zip(self._campaign.walks, self.walkers, strict=True):
            directory.put_in_force(settings.dump(walk.problem.config))

    def open(self) -> None:
        """Take the locks.

        Raises:
          RunDirectoryError: if another process works here.
        """
        self.own.open()
        for each in self.walkers:
            each.open()

    def close(self) -> None:
        """Release the locks."""
        for each in (*self.walkers, self.own):
            each.close()

    def of(self, i: int) -> RunDirectory:
        """Directory of a walker."""
        return self.walkers[i]

    def log(self, event: str, **fields: Any) -> None:
        """Append an event of the campaign."""
        self.own.log(event, **fields)

    def commit(self, state: CampaignState, interruption: Interruption) -> None:
        """Write a checkpoint, and the ensemble that belongs to it."""
        metadata = state.to_json() | {"files": [each.sizes() for each in self.walkers]}
        with interruption.patience(SAVING_S):
            self._artefact.keep(state)
            checkpoint.write(self.own.checkpoints, state.round, state.arrays, metadata)

    def truncate(self, sizes: list[dict[str, int]]) -> None:
        """Truncate the growing files of all walkers to the sizes of a checkpoint.

        Raises:
          RunDirectoryError: if a file is shorter, so was changed after the checkpoint.
        """
        for each, known in zip(self.walkers, sizes, strict=True):
            each.truncate(known)

    def publish(self) -> None:
        """Copy the newest ensemble to the directory of the campaign and to those of its walkers."""
        self._artefact.publish(self.walkers)

    def taken_after(self, number: int) -> Mapping[int, Mapping[int, str | None]]:
        """Labels that were learnt in rounds after a checkpoint: by round and walker, with failures in words."""
        places = {walk.name: i for i, walk in enumerate(self._campaign.walks)}
        found: dict[int, dict[int, str | None]] = {}
        for event in _events(self.own.events):
            if event["event"] == "taken" and event["round"] > number:
                found[event["round"]] = {places[name]: failure for name, _, failure in event["labels"]}
        return found


def _events(path: Path) -> list[dict[str, Any]]:
    """Events of a campaign; a torn last line is left out.

    Raises:
      RunDirectoryError: if another line is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    try:
        return [json.loads(line) for line in lines[:-1]]
    except ValueError as error:
        raise RunDirectoryError(f"{path}: a line is damaged: {error}") from error
