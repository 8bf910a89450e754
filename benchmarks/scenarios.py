"""What comparisons of fine-tunings have in common: a YAML file of targets and series, and running what is left."""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import Field

from bayes_mlff.core import settings
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.core.settings import Count, Section, Seed
from bayes_mlff.finetune.config import Method

Merged = TypeVar("Merged", bound=dict[str, Any])


class Target(Section):
    """What is fine-tuned."""

    name: str
    model: str = Field(description="Pretrained model: its name, or a path relative to a folder of the comparison.")
    settings: dict[str, Any] = Field(default={}, description="Keys of its fine-tunings that differ from the others'.")


class Series(Section):
    """One method at several sizes of the training set."""

    method: Method
    sizes: tuple[Count, ...]
    seeds: tuple[Seed, ...] = (0,)
    targets: tuple[str, ...] | None = Field(default=None, description="Names of targets; all without it.")
    settings: dict[str, Any] = Field(default={}, description="Keys of a fine-tuning that differ from the target's.")


class Scenario(Section):
    """What is compared with what."""

    scenario: str
    about: str = ""
    targets: tuple[Target, ...]
    settings: dict[str, Any] = Field(default={}, description="Keys of every fine-tuning.")
    series: tuple[Series, ...]


S = TypeVar("S", bound=Scenario)


class Fit(NamedTuple):
    """One fine-tuning of a scenario."""

    target: Any  # of the scenario's kind
    method: str
    frames: int
    seed: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{self.target.name}-{self.method}-m{self.frames}-s{self.seed}"


def load(path: Path, kind: type[S]) -> S:
    """Read and validate a scenario.

    Raises:
      ConfigError: if the file is missing or invalid, or a series names a target that is not there.
    """
    scenario = settings.validate(kind, settings.read_yaml(path))
    names = [target.name for target in scenario.targets]
    for series in scenario.series:
        for name in series.targets or ():
            if name not in names:
                raise ConfigError("series.targets", name, f"one of {names}")
    return scenario


def fits(scenario: Scenario) -> list[Fit]:
    """All fine-tunings: series after series, their targets, sizes and seeds in the order of the file."""
    return [
        Fit(target, series.method, size, seed, merge(merge(scenario.settings, target.settings), series.settings))
        for series in scenario.series
        for seed in series.seeds
        for target in scenario.targets
        if series.targets is None or target.name in series.targets
        for size in series.sizes
    ]


def arguments(text: str | None) -> argparse.ArgumentParser:
    """A parser of a scenario's file, the folders, and the options that select some of its fine-tunings."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--targets", nargs="*", help="only these")
    parser.add_argument("--method", nargs="*", help="only these")
    parser.add_argument("--sizes", nargs="*", type=int, help="only these")
    parser.add_argument("--seeds", nargs="*", type=int, help="only these")
    return parser


def collecting(about: str | None) -> argparse.ArgumentParser:
    """Command line of a program that puts the results of a scenario together."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--machine", required=True)
    return parser


def selected(every: Iterable[Fit], args: argparse.Namespace) -> list[Fit]:
    """The fine-tunings that the options of `arguments` leave."""
    return [
        fit
        for fit in every
        if all(
            not chosen or value in chosen
            for chosen, value in (
                (args.targets, fit.target.name),
                (args.method, fit.method),
                (args.sizes, fit.frames),
                (args.seeds, fit.seed),
            )
        )
    ]


def run_all(wanted: Sequence[Fit], run: Callable[[Fit], bool]) -> None:
    """Do them one after the other and print how long each took; `run` returns False if one was done before."""
    for number, fit in enumerate(wanted, 1):
        began = time.perf_counter()
        done = run(fit)
        text = f"{time.perf_counter() - began:.0f} s" if done else "was done"
        print(f"{number} of {len(wanted)}: {fit.name}: {text}", flush=True)


def merge(first: Merged, second: Merged) -> dict[str, Any]:
    """The keys of both, of the second where both have one; sections are merged key by key."""
    joined: dict[str, Any] = dict(first)
    for key, value in second.items():
        both = isinstance(value, dict) and isinstance(joined.get(key), dict)
        joined[key] = merge(joined[key], value) if both else value
    return joined
