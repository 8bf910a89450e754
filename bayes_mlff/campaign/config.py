"""The configuration of a campaign: what all walkers share, and in what each differs."""

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import Field

from bayes_mlff.core import settings
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.settings import Count, Positive, Section, Seed
from bayes_mlff.data.structure_settings import StructureSettings
from bayes_mlff.engines.labelling.settings import ExecutorSettings, LocalSettings
from bayes_mlff.models import catalogue
from bayes_mlff.otf import config as of_runs
from bayes_mlff.otf import systems
from bayes_mlff.otf.config import RunConfig

MOST_WALKERS: Final = 10_000

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")

_OF_ONE_RUN: Final = ("start", "max_labels", "seed")
"""Keys of a run that a campaign has elsewhere, or not."""


class WalkerSettings(Section):
    """One walker, or several that differ in their seeds, structures or conditions."""

    name: str | None = Field(
        default=None,
        description="Name of the walker and of its folder: letters, digits and . _ + -. Without it that of the "
        "structure; numbers and the values of grid are appended where there are several.",
    )
    structure: StructureSettings | None = Field(
        default=None, description="Starting structure, as in a run; without it that of run.structure."
    )
    structures: str | None = Field(
        default=None, description="Pattern of paths of structures, such as molecules/*.xyz: a walker for each file."
    )
    copies: int = Field(
        default=1, ge=1, le=MOST_WALKERS, description="Number of walkers that differ in their seeds alone."
    )
    seed: Seed | None = Field(
        default=None,
        description="Seed of velocities and noise of the first copy; each further one has the next whole number. "
        "Without it the number of the walker in the campaign after seed.",
    )
    dynamics: dict[str, Any] = Field(
        default={}, description="Keys of dynamics that differ from those of run.dynamics, such as {temperature_k: 600}."
    )
    grid: dict[str, tuple[Any, ...]] = Field(
        default={},
        description="Keys of dynamics with several values, such as {temperature_k: [300, 600]}: a walker for every "
        "combination.",
    )


class LabelsSettings(Section):
    """How many labels are calculated, and how many of them at a time."""

    in_flight: Count | None = Field(
        default=None,
        description="Largest number of labels that are under way at a time; never more than the executor calculates at "
        "once. null means as many as that, or where it is not known as many as there are walkers.",
    )
    most: Count = Field(
        default=500, description="Number of reference calculations at which the campaign stops; resume with more."
    )
    core_hours: Positive | None = Field(
        default=None, description="Core hours of reference calculations at which the campaign stops; null: no limit."
    )
    cores: Count = Field(default=1, description="Cores that one reference calculation occupies, for core_hours.")
    per_hour: Positive | None = Field(
        default=None, description="Largest number of labels that are begun within any hour; null: no limit."
    )
    ask_again: bool = Field(
        default=True,
        description="Whether a geometry that waits for a place, and of which the model is certain after it has learnt "
        "other labels, goes on without one.",
    )


class CampaignConfig(Section):
    """Everything that defines a campaign."""

    run: dict[str, Any] = Field(
        description="What all walkers share: the keys of a run, among them model, threshold, engine and dynamics."
    )
    walkers: Annotated[tuple[WalkerSettings, ...], Field(min_length=1)] = Field(
        description="The walkers: a list of sections such as {structure: ethanol, copies: 8}."
    )
    start: str | None = Field(
        default=None,
        description="Directory of a campaign or of a run that has ended or was interrupted, with the same reference: "
        "its labels are learnt before the first step, whatever their composition, and its samples are continued. The "
        "walkers may have other structures of the same elements.",
    )
    order: Literal["arrival", "rounds"] = Field(
        default="arrival",
        description="When labels are learnt: arrival learns whatever has come back, and records the order, so that a "
        "resume repeats it; rounds waits for all labels that were requested a round before, so that the same campaign "
        "gives the same bits, but walkers wait for each other.",
    )
    calibration: Literal["structure", "common"] = Field(
        default="structure",
        description="Whether the walkers of each composition have a law of errors of their own, or all share one. One "
        "structure that the model knows badly makes a common law ask for labels of all others.",
    )
    levels: Literal["structure", "element"] = Field(
        default="element",
        description="Where the zero of the energies comes from: element fits an energy of each element to all first "
        "labels, as a fine-tuning does, so that energies of different compositions can be compared; structure gives "
        "each composition its own from its first labels, so that the model need not learn in what it differs from the "
        "others, for a new composition that starts from an earlier campaign. Isomers have one zero in either case.",
    )
    labels: LabelsSettings = Field(default=LabelsSettings(), description="Limits of the reference calculations.")
    executor: ExecutorSettings = Field(
        default=LocalSettings(), description="Where labels are calculated: local, parsl or imported."
    )
    seed: Seed = Field(default=0, description="Seed of the samples of the posterior.")


class Member(NamedTuple):
    """One walker."""

    name: str
    config: RunConfig
    said: WalkerSettings  # of this walker alone


def load(path: Path) -> CampaignConfig:
    """Read a configuration.

    Raises:
      ConfigError: for the first problem, naming the dotted key, the value and what is allowed.
    """
    return settings.validate(CampaignConfig, settings.read_yaml(path), source=path)


def members(config: CampaignConfig, *, base: Path) -> tuple[Member, ...]:
    """All walkers of a campaign, each with the configuration of a run.

    Args:
      config: of the campaign.
      base: folder from which relative paths start.

    Raises:
      ConfigError: naming the key of the campaign that is not valid.
    """
    for key in _OF_ONE_RUN:
        if key in config.run:
            allowed = {
                "start": "start of the campaign",
                "max_labels": "labels.most of the campaign",
                "seed": "seed of the campaign or of a walker",
            }
            raise ConfigError(f"run.{key}", config.run[key], allowed[key])
    found: list[Member] = []
    for number, walker in enumerate(config.walkers):
        for one in _expanded(config, walker, f"walkers.{number}", base):
            seed = (config.seed + 1 + len(found)) % 2**32 if one.seed is None else one.seed
            said = one.model_copy(update={"seed": seed})
            found.append(Member(str(said.name), _of_run(config, said, f"walkers.{number}"), said))
            if len(found) > MOST_WALKERS:
                raise ConfigError(f"walkers.{number}", said.name, f"at most {MOST_WALKERS} walkers in all")
    _refuse_repeated(found)
    return tuple(found)


def resolved(config: CampaignConfig, found: tuple[Member, ...], *, base: Path) -> CampaignConfig:
    """The configuration with one section for each walker and absolute paths, so that it depends on no pattern."""
    walkers = []
    for member in found:
        structure = member.said.structure
        assert structure is not None
        if structure.file not in systems.STRUCTURES:
            structure = structure.model_copy(update={"file": str((base / structure.file).resolve())})
        walkers.append(member.said.model_copy(update={"structure": structure}))
    run = {key: value for key, value in config.run.items() if key != "structure"}
    if isinstance(run.get("model"), str) and run["model"] not in catalogue.NAMES:
        run["model"] = str((base / run["model"]).resolve())
    start = None if config.start is None else str((base / config.start).resolve())
    return config.model_copy(update={"walkers": tuple(walkers), "run": run, "start": start})


def _expanded(config: CampaignConfig, walker: WalkerSettings, key: str, base: Path) -> Iterator[WalkerSettings]:
    """The walkers of one section, each as a section of its own."""
    structures = [StructureSettings.model_validate(each) for each in _structures(config, walker, key, base)]
    for structure in structures:
        stem = walker.name or _stem(structure)
        if walker.name is not None and len(structures) > 1:
            stem = f"{walker.name}-{_stem(structure)}"
        for values in itertools.product(*walker.grid.values()):
            for copy in range(walker.copies):
                name = "-".join([stem, *map(_said, values), *([str(copy + 1)] if walker.copies > 1 else [])])
                if not _NAME.fullmatch(name):
                    raise ConfigError(f"{key}.name", name, "1 to 100 letters, digits and . _ + -, a letter first")
                dynamics = {**walker.dynamics, **dict(zip(walker.grid, values, strict=True))}
                seed = None if walker.seed is None else walker.seed + copy
                yield WalkerSettings(name=name, structure=structure, seed=seed, dynamics=dynamics)


def of_all(config: CampaignConfig) -> RunConfig:
    """What all walkers share as the configuration of a run, whose structure says nothing.

    Raises:
      ConfigError: naming the key of `run` that is not valid.
    """
    try:
        return of_runs.parse({"structure": next(iter(systems.STRUCTURES)), **config.run})
    except ConfigError as error:
        raise ConfigError(f"run.{error.key}", error.value, error.allowed) from error


def _of_run(config: CampaignConfig, said: WalkerSettings, key: str) -> RunConfig:
    shared = config.run.get("dynamics", {})
    if not isinstance(shared, Mapping):
        raise ConfigError("run.dynamics", shared, "a section")
    assert said.structure is not None
    structure, dynamics = said.structure.model_dump(mode="json"), {**shared, **said.dynamics}
    try:
        return of_runs.parse({**config.run, "structure": structure, "dynamics": dynamics, "seed": said.seed})
    except ConfigError as error:
        raise ConfigError(f"{key} with run: {error.key}", error.value, error.allowed) from error


def _structures(config: CampaignConfig, walker: WalkerSettings, key: str, base: Path) -> Iterator[Any]:
    if walker.structures is not None:
        if walker.structure is not None:
            raise ConfigError(f"{key}.structures", walker.structures, "this key or structure, not both")
        try:
            paths = sorted(base.glob(walker.structures))
        except (ValueError, NotImplementedError) as error:
            raise ConfigError(
                f"{key}.structures", walker.structures, f"a pattern of relative paths ({error})"
            ) from error
        if not paths:
            raise ConfigError(f"{key}.structures", walker.structures, f"a pattern that files in {base} have")
        yield from (str(path.relative_to(base)) for path in paths)
    elif walker.structure is not None:
        yield walker.structure.model_dump(mode="json")
    elif "structure" in config.run:
        yield config.run["structure"]
    else:
        raise ConfigError(f"{key}.structure", None, "a structure here, or run.structure for all walkers")


def _stem(structure: StructureSettings) -> str:
    return structure.file if structure.file in systems.STRUCTURES else Path(structure.file).stem


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _refuse_repeated(found: list[Member]) -> None:
    known: dict[str, Member] = {}
    for each in found:
        other = known.setdefault(each.name.lower(), each)
        if other is not each:
            raise ConfigError("walkers", each.name, "names that no two walkers share, upper and lower case alike")
