"""What a run is given beside structure and model: labels and a trained ensemble, for `start` in its configuration."""

from pathlib import Path
from typing import NamedTuple

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data import dataset
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.ensemble import files, saved
from bayes_mlff.ensemble.saved import Ensemble
from bayes_mlff.otf import carried, given_labels
from bayes_mlff.otf.config import RunConfig
from bayes_mlff.otf.problem import Problem
from bayes_mlff.runs import start as starts
from bayes_mlff.runs.start import Start


class Given(NamedTuple):
    """Labels and samples that exist before a run."""

    labels: tuple[LabelRecord, ...] = ()  # with the hash of the reference, or what is known of their origin
    ensemble: Ensemble | None = None
    remarks: tuple[str, ...] = ()  # what was taken, and what is assumed of it

    def doubted(self, engine_hash: str) -> list[list[LabelRecord]]:
        """Labels of which it is not known that the reference with this hash made them, by origin."""
        found: dict[str, list[LabelRecord]] = {}
        for record in self.labels:
            if record.engine_hash != engine_hash:
                found.setdefault(record.engine_hash, []).append(record)
        return list(found.values())


class Read(NamedTuple):
    """What a run is given, with the contents of the files that are kept of it."""

    given: Given
    labels: bytes | None
    ensemble: bytes | None


NOTHING = Given()


def read(config: RunConfig, problem: Problem, engine_hash: str) -> Read:
    """Read and check what a configuration names.

    Args:
      config: with absolute paths.
      problem: constants of the run.
      engine_hash: of the reference of the run.

    Raises:
      ConfigError: if something does not exist, or is of another model or level of theory.
      DataError: naming the first label that does not fit.
      RunDirectoryError, WeightsError: if a file cannot be read.
    """
    asked = config.start
    if asked is None:
        return Read(NOTHING, None, None)
    records, said = [], []
    ensemble, content = None, None
    if asked.ensemble is not None:
        path = Path(asked.ensemble)
        ensemble, content = saved.load(path), files.find(path).read_bytes()
        said.append(f"starts from {_counted(ensemble, problem)} of {path}")
        said += carried.check(ensemble, path, problem)
        if given_labels.is_run(path):
            found = given_labels.of_run(path, problem, engine_hash, carried.KEY)
            records, said = [*records, *found.records], [*said, *found.remarks]
        elif asked.labels is None:
            raise ConfigError(
                given_labels.KEY,
                None,
                f"the labels that the ensemble of {path} has learnt, which only the directory of a run brings; without "
                "them the chains would forget them",
            )
    if asked.labels is not None:
        found = given_labels.read(asked.labels, problem, engine_hash)
        records, said = [*records, *found.records], [*said, *found.remarks]
    once = given_labels.distinct(records, problem)
    given = Given(tuple(once.records), ensemble, (*said, *once.remarks))
    for doubted in given.doubted(engine_hash):
        line = f"of {len(doubted)} labels it is not known whether the reference made them"
        line += ": one of them is calculated again and compared before the first step"
        given = given._replace(remarks=(*given.remarks, line))
    return Read(given, dataset.text(given.labels).encode(), content)


def _counted(ensemble: Ensemble, problem: Problem) -> str:
    count, chains = len(ensemble.models), problem.config.chains
    if count > chains:
        return f"{chains} of the {count} samples"
    if count < chains:
        return f"the {count} samples, {chains - count} of {chains} chains displaced from them"
    return f"the {count} samples" if count > 1 else "the one set of weights"


def kept(start: Start, run: Path) -> Given:
    """What a run was given, from the copies in its directory, which `starts.read` has verified."""
    folder = run / starts.FOLDER
    labels = () if start.labels is None else tuple(dataset.read(folder / starts.LABELS))
    ensemble = None if start.ensemble is None else saved.load(folder / starts.ENSEMBLE)
    return Given(labels, ensemble)
