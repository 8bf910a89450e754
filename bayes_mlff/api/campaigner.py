"""Executes campaigns from a configuration to the report, for the program and for Python."""

import shlex
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bayes_mlff.api import introduction
from bayes_mlff.api.runner import report as report_of_run
from bayes_mlff.api.runner import with_absolute_paths
from bayes_mlff.campaign import config as configuration
from bayes_mlff.campaign import given as givens
from bayes_mlff.campaign import validation
from bayes_mlff.campaign.config import CampaignConfig, Member
from bayes_mlff.campaign.folders import Folders
from bayes_mlff.campaign.given import Given
from bayes_mlff.campaign.labels import Requests
from bayes_mlff.campaign.layout import MARK, SPOOL, WALKERS
from bayes_mlff.campaign.loop import Session
from bayes_mlff.campaign.problem import Begun, Campaign, make
from bayes_mlff.campaign.state import CampaignState, Observer
from bayes_mlff.core import settings
from bayes_mlff.core.changes import Change, changes
from bayes_mlff.core.errors import ConfigError, RunDirectoryError, RunInterruptedError, shown
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.data.structure_remarks import formula
from bayes_mlff.data.structure_settings import StructureSettings
from bayes_mlff.engines.beside import gather
from bayes_mlff.engines.engine import Engine
from bayes_mlff.engines.labelling.dispatcher import Dispatcher
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.engines.work_folder import FOLDER as ENGINE
from bayes_mlff.ensemble.files import CHECKPOINTS
from bayes_mlff.models import registry, selfcheck
from bayes_mlff.otf import systems
from bayes_mlff.otf.changes import check_changes
from bayes_mlff.otf.problem import stated
from bayes_mlff.report import campaign as summary
from bayes_mlff.runs import start as starts
from bayes_mlff.runs.directory import CONFIG, IN_FORCE
from bayes_mlff.runs.interruption import Interruption, nothing_to_say, time_limit
from bayes_mlff.runs.start import Start

FREE = ("labels", "executor", "run", "walkers")
"""Sections that may change when a campaign is resumed; `run` and `walkers` as far as a run may change."""


class _Outside(NamedTuple):
    """What a campaign needs from its caller."""

    observer: Observer
    interruption: Interruption


def run(
    config: CampaignConfig,
    path: Path,
    *,
    base: Path,
    observer: Observer,
    wall_time_s: float | None = None,
    spent_s: float = 0.0,
) -> None:
    """Start a campaign in `path`, or continue the same one.

    Args:
      config: validated configuration.
      path: directory of the campaign.
      base: folder from which relative paths start.
      observer: receives reports about the progress.
      wall_time_s: time limit, s; None: no limit.
      spent_s: part of this time that was spent before this call, s.

    Raises:
      ConfigError, DataError, EngineError: before anything is written, if the campaign cannot work.
      RunDirectoryError: if `path` holds another campaign, or something else.
      RunInterruptedError: if a signal or the time limit ended it; it can be continued.
    """
    if is_campaign(path):
        _refuse_other(path, config, base.absolute())
        resume(path, observer=observer, wall_time_s=wall_time_s, spent_s=spent_s)
        return
    if path.exists() and not _is_free(path):
        raise RunDirectoryError(f"{path}: holds something else; allowed: a new or empty directory for the campaign")
    limit = time_limit(wall_time_s, spent_s=spent_s)
    with Interruption(limit, farewell="go on with the same command") as interruption:
        _begin(config, path.absolute(), base.absolute(), _Outside(observer, interruption))


def resume(path: Path, *, observer: Observer, wall_time_s: float | None = None, spent_s: float = 0.0) -> None:
    """Continue a campaign from its newest intact checkpoint, with the structures and the model in its directory.

    Raises:
      ConfigError: if a setting was changed that may not change.
      RunDirectoryError: if there is no campaign, another process works on it, or a file in it is damaged.
      RunInterruptedError: if a signal or the time limit ended it; it can be continued.
    """
    refuse_none(path)
    own, limit = path.absolute(), time_limit(wall_time_s, spent_s=spent_s)
    config = configuration.load(own / CONFIG)
    before = configuration.load(own / IN_FORCE) if (own / IN_FORCE).is_file() else config
    found = _allowed_changes(before, config)
    with Interruption(limit, farewell=_how_to_resume(path)) as interruption:
        outside = _Outside(observer, interruption)
        members = configuration.members(config, base=own)
        known = [starts.read(own / WALKERS / member.name) for member in members]
        base = starts.base_of(known[0], own / WALKERS / members[0].name)
        for member, earlier, start in zip(members, configuration.members(before, base=own), known, strict=True):
            check_changes(*(stated(each.config, start.potential) for each in (earlier, member)))
        begun = tuple(Begun(m.name, m.config, start) for m, start in zip(members, known, strict=True))
        campaign = _made(config, begun, givens.stored(own), observer)
        with make_engine(members[0].config.engine, own, base=base) as engine:
            if engine.settings_hash != known[0].engine_hash:
                allowed = f"the method with which the labels of this campaign were made, {known[0].engine}"
                raise ConfigError("run.engine", engine.description, allowed)
            _work(campaign, engine, Folders(own, campaign), base, outside, found)


def _allowed_changes(before: CampaignConfig, after: CampaignConfig) -> tuple[Change, ...]:
    """What was changed in the configuration of a campaign, if it may be."""
    found = changes(before, after)
    names = [[walker.name for walker in each.walkers] for each in (before, after)]
    if names[0] != names[1]:
        raise ConfigError("walkers", names[1], f"{names[0]}, with which the campaign was started")
    for change in found:
        if change.key.split(".")[0] not in FREE:
            allowed = f"{change.before!r}, with which the campaign was started; these may change: {', '.join(FREE)}"
            raise ConfigError(change.key, change.after, allowed)
    return found


def check(config: CampaignConfig, *, base: Path, observer: Observer) -> None:
    """Validate everything that can be validated without a campaign."""
    members = configuration.members(config, base=base)
    with make_engine(members[0].config.engine, base=base) as engine:
        campaign = _made(config, *_read(config, members, engine, base, observer), observer)
        _introduce(campaign, engine, observer)
    observer.say("everything is ready to run")


def is_campaign(path: Path) -> bool:
    """Whether a path is the directory of a campaign."""
    return (path / MARK).is_file()


def refuse_none(path: Path) -> None:
    """Refuse a path that is not the directory of a campaign.

    Raises:
      RunDirectoryError: naming what is missing.
    """
    if not is_campaign(path):
        raise RunDirectoryError(f"{path}: no campaign here ({MARK} is missing)")


def _begin(config: CampaignConfig, path: Path, base: Path, outside: _Outside) -> None:
    members = configuration.members(config, base=base)
    config = configuration.resolved(config, members, base=base)
    with make_engine(members[0].config.engine, path, base=base) as engine:
        campaign = _made(config, *_read(config, members, engine, base, outside.observer), outside.observer)
        _work(campaign, engine, Folders(path, campaign), base, outside, ())


def _read(
    config: CampaignConfig, members: tuple[Member, ...], engine: Engine, base: Path, observer: Observer
) -> tuple[tuple[Begun, ...], Given]:
    """Read structures, the model and what the campaign is given, and let the engine look at every structure."""
    observer.working("reading structures and model")
    read: dict[StructureSettings, InitialStructure] = {}
    for member in members:
        asked = member.config.structure
        if asked not in read:
            read[asked] = systems.initial_structure(asked, base=base)
            engine.check(read[asked].structure)
            for remark in read[asked].remarks:
                observer.say(f"  {member.name}: {remark}")
    initial = [read[member.config.structure] for member in members]
    configs = [with_absolute_paths(member.config, base) for member in members]
    whole = registry.load(configs[0].model, head=configs[0].head)
    found = None if config.start is None else givens.read((base / config.start).resolve(), engine.settings_hash)
    if found is None:
        potential = registry.for_atoms(whole, np.concatenate([np.asarray(each.structure.numbers) for each in initial]))
    else:
        structures = {member.name: each.structure for member, each in zip(members, initial, strict=True)}
        givens.check(found, structures, config.levels)
        potential = registry.for_atoms(whole, np.array(found.potential.config.elements))
        givens.refuse_other_model(found, potential, configs[0].model)
    about = engine.settings_hash, engine.description, base, gather(configs[0].engine, base)
    rows = zip(members, configs, initial, strict=True)
    begun = tuple(Begun(m.name, c, Start(each, potential, *about)) for m, c, each in rows)
    return begun, givens.NOTHING if found is None else found.given


def _made(config: CampaignConfig, begun: tuple[Begun, ...], given: Given, observer: Observer) -> Campaign:
    observer.working("checking that JAX computes correct numbers")
    selfcheck.ensure(observer.say)
    return make(config, begun, given)


def _work(
    campaign: Campaign,
    engine: Engine,
    folders: Folders,
    base: Path,
    outside: _Outside,
    changed: tuple[Change, ...],
) -> None:
    observer, interruption = outside
    config = campaign.config
    dispatcher = Dispatcher(
        config.executor,
        campaign.common.config.engine,
        settings_hash=engine.settings_hash,
        spool=folders.spool,
        base=base,
        in_flight=config.labels.in_flight,
    )
    _introduce(campaign, engine, observer)
    folders.create(settings.dump(config))
    interruption.farewell = _how_to_resume(folders.path)
    folders.open()
    interruption.last_words = partial(_take_leave, folders, interruption)
    try:
        observer.working("starting the executor of labels")
        with dispatcher:
            dispatcher.try_out(campaign.common.structure)
            folders.log("session_started")
            for change in changed:
                folders.log("setting", **change._asdict())
                observer.say(f"  changed    {change.key}: {change.before} -> {change.after}")
            folders.put_in_force(settings.dump(config))
            requests = Requests(campaign, engine, dispatcher, folders.walkers, interruption)
            session = Session(campaign, folders, requests, observer, interruption)
            observer.working("compiling the potential")
            state = session.finish(session.resume())
            validation.validate(campaign, engine, folders, requests, state, observer)
    except RunInterruptedError as error:
        folders.log("interrupted", step=interruption.step, reason=error.reason)
        raise
    finally:
        interruption.last_words = nothing_to_say
        folders.close()
    _conclude(campaign, state, folders, observer)


def _conclude(campaign: Campaign, state: CampaignState, folders: Folders, observer: Observer) -> None:
    for line in summary.lines(summary.read(folders.path)):
        observer.say(line)
    aside = [walk.name for walk, walker in zip(campaign.walks, state.walkers, strict=True) if walker.aside is not None]
    if aside:
        observer.say(f"  set aside: {', '.join(aside)}; bayes-mlff campaign status {folders.path} says why")
    for walk, directory in zip(campaign.walks, folders.walkers, strict=True):
        observer.working(f"report of {walk.name}")
        report_of_run(directory.path)
    observer.say(f"finished; report: {summary.write_report(folders.path)}")


def _take_leave(folders: Folders, interruption: Interruption, reason: str) -> None:
    """Last work before the process ends outside of the loop's regular exit."""
    folders.log("interrupted", step=interruption.step, reason=reason)
    folders.close()


def _introduce(campaign: Campaign, engine: Engine, observer: Observer) -> None:
    config, common = campaign.config, campaign.common.config
    walkers, groups = len(campaign.walks), len(campaign.groups)
    duration = sum(walk.problem.config.dynamics.duration_ps for walk in campaign.walks)
    observer.say(f"{walkers} walkers of {groups} kind{'s' if groups > 1 else ''}, {duration:g} ps in all")
    for group in campaign.groups:
        first = group.problem
        names = [campaign.walks[i].name for i in group.walkers]
        shown_names = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        observer.say(f"  {'walkers':<10} {len(names)} of {formula(np.asarray(first.structure.numbers))}: {shown_names}")
        for line in engine.assumptions(first.structure):
            observer.say(f"  {'electrons':<10} {line}")
    given = campaign.given.labels
    if given:
        formulas = ", ".join(dict.fromkeys(formula(np.asarray(record.structure.numbers)) for record in given))
        observer.say(f"  {'start':<10} samples and {len(given)} labels of {formulas} from {config.start}")
    for topic, text in (
        ("model", common.model),
        ("reference", engine.description),
        ("threshold", f"{common.threshold} with confidence {common.confidence:g}; errors {_law(config)}"),
        ("labels", _labels(config)),
        ("assumed", _sigma(campaign)),
    ):
        observer.say(f"  {topic:<10} {text}")
    for topic, text in dict.fromkeys(r for walk in campaign.walks for r in introduction.remarks(walk.problem)):
        observer.say(f"  {topic:<10} {text}")


def _law(config: CampaignConfig) -> str:
    return "of all walkers have one law" if config.calibration == "common" else "of each structure have their own law"


def _labels(config: CampaignConfig) -> str:
    limits = config.labels
    places, kind = config.executor.places, config.executor.model_dump()["kind"]
    where = kind if places is None else f"{kind}, {places} at once"
    order = "in the order of requests" if config.order == "rounds" else "as they come back"
    return f"calculated by {where}; learnt {order}; at most {limits.most}"


def _sigma(campaign: Campaign) -> str:
    sigma = campaign.common.energy_sigma_ev * KCAL_MOL_PER_EV
    return f"constant σ of total energies {sigma:.3g} kcal/mol, that of the structure with the smallest threshold"


def _refuse_other(path: Path, config: CampaignConfig, base: Path) -> None:
    """Refuse a directory with another campaign."""
    there = configuration.load(path / CONFIG)
    asked = configuration.resolved(config, configuration.members(config, base=base), base=base)
    differing = changes(there, asked)
    if differing:
        said = "; ".join(f"{c.key} is {shown(c.after)}, there {shown(c.before)}" for c in differing[:3])
        raise RunDirectoryError(
            f"{path}: holds a campaign with another configuration ({said}); choose another --output, or continue that "
            f"one with 'campaign resume {path}'"
        )


def _is_free(path: Path) -> bool:
    """Whether a directory is empty, or has what a process has left that was killed while it began a campaign."""
    begun = {WALKERS, SPOOL, CHECKPOINTS, CONFIG, IN_FORCE, starts.FOLDER, ENGINE}
    return path.is_dir() and {each.name.removesuffix(".tmp") for each in path.iterdir()} <= begun


def _how_to_resume(path: Path) -> str:
    return f"go on with: bayes-mlff campaign resume {shlex.quote(str(path))}"
