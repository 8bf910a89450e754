"""What a run or a fine-tuning has learnt, as files that other programs use or start from."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
import yaml

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.ensemble import files, saved
from bayes_mlff.ensemble.saved import Ensemble
from bayes_mlff.finetune import config as finetune_configuration
from bayes_mlff.models import architectures, catalogue, registry
from bayes_mlff.models.config import ArchitectureConfig
from bayes_mlff.models.origin import NOWHERE, Origin
from bayes_mlff.models.potential import Potential
from bayes_mlff.otf import artefact
from bayes_mlff.report.program_export import refuse_used

What = Literal["ensemble", "chains", "model"]
"""One file for `EnsembleCalculator`; a model of each chain; a `.model` file of mace-torch of each chain."""


FINE_TUNED: Final = "metrics.json"
"""File that tells the directory of a complete fine-tuning from that of a run."""


class Source(NamedTuple):
    """What to export."""

    config: ArchitectureConfig  # of the trained weights
    origin: Origin  # of the weights before they were trained
    read: Callable[[], Ensemble]


def of_run(run: Path, potential: Potential) -> Source:
    """What a run knew at its newest checkpoint; with the model that it was started from, for its elements.

    A walker of a campaign has no checkpoints of its own, and the ensemble of the campaign.

    Reading it raises:
      RunDirectoryError: if there is no intact checkpoint.
    """

    def read() -> Ensemble:
        alone = any((run / files.CHECKPOINTS).glob("*.ckpt")) or not (run / files.NAME).is_file()
        return artefact.read(run, potential) if alone else saved.load(run)

    return Source(potential.config, potential.origin, read)


def of_fine_tuning(path: Path) -> Source:
    """The result of a fine-tuning, from its directory.

    Raises:
      ConfigError: if it has none, or one of a version that did not store energies of isolated atoms.
      WeightsError: if it is not readable.
    """
    learnt = saved.load(path)
    if learnt.offset_ev.ndim < 2:
        raise ConfigError("path", str(path), "a fine-tuning of this version: this one has one energy for all atoms")
    settings = finetune_configuration.parse(yaml.safe_load(learnt.config_text))
    known = settings.model in catalogue.NAMES and not settings.from_random_weights
    origin = Origin(settings.model, settings.head or "") if known else NOWHERE
    return Source(learnt.architecture, origin, lambda: learnt)


def export(
    source: Source,
    folder: Path,
    *,
    what: str | None = None,
    template: Path | None = None,
    trust: bool = False,
) -> list[Path]:
    """Write trained models.

    Args:
      source: of a run or a fine-tuning.
      folder: where to write `ensemble.safetensors`, or `chain_0` and so on; made if it is missing.
      what: see `What`; by default `model` with a template, and `chains` without.
      template: the `.model` file of mace-torch that was started from; the files know all of its elements.
      trust: run the programs that the template contains.

    Returns:
      The files. Their energies have the origin of the reference, but for those of `.model` files: these keep the
      isolated atoms of the template, so that their energies are those of the reference plus an offset.

    Raises:
      RunDirectoryError: if the run has no intact checkpoint.
      ConfigError: if there is something in the folder, or `.model` files are asked for and there is no template, no
        trust or no writer for the architecture, or the ensemble has learnt energies alone.
      WeightsError: if the template is of another architecture.
    """
    refuse_used(folder)
    what = what or ("chains" if template is None else "model")
    _check(what, source.config, template, trust=trust)
    learnt = source.read()
    if what == "model":
        learnt.require_forces("a file of another program")
    if what == "chains" and learnt.own is not None:
        raise ConfigError(
            "--what",
            what,
            "ensemble, since each composition has a zero of the energies of its own, which no file of one has",
        )
    folder.mkdir(parents=True, exist_ok=True)
    if what == "ensemble":
        saved.save(learnt, folder / files.NAME)
        return [folder / files.NAME]
    if what == "chains":
        return _chains(learnt, source.origin, folder)
    unravel = saved.unraveller(source.config)[1]
    assert template is not None  # see `_check`
    form, write = architectures.written_format(source.config)
    paths = [folder / f"chain_{i}{form.suffix}" for i in range(len(learnt.models))]
    write(source.config, [*map(unravel, learnt.models)], template, paths, trust=trust)
    return paths


def _check(what: str, config: ArchitectureConfig, template: Path | None, *, trust: bool) -> None:
    if what not in get_args(What):
        raise ConfigError("--what", what, f"one of {', '.join(get_args(What))}")
    if what != "model" and template is not None:
        raise ConfigError("--template", str(template), f"none with --what {what}, which needs none")
    if trust and template is None:
        raise ConfigError("--trust", trust, "this option with --template alone, whose code it allows")
    if what != "model":
        return
    architectures.written_format(config)
    if template is None:
        raise ConfigError("--template", None, "the .model file of mace-torch that was started from")


def _chains(learnt: Ensemble, origin: Origin, folder: Path) -> list[Path]:
    """Models that `model` of a configuration takes, with the offset of the energies among their isolated atoms."""
    unravel, paths, tuned = saved.unraveller(learnt.architecture)[1], [], origin._replace(tuned=bool(origin.name))
    for i, flat in enumerate(learnt.models):
        shifts = np.array(learnt.architecture.energy_shifts) - learnt.offset_ev[i]
        config = learnt.architecture.model_copy(update={"energy_shifts": tuple(map(float, shifts))})
        paths.append(folder / f"chain_{i}.safetensors")
        registry.save(Potential(config, unravel(flat), tuned), paths[-1], dict(learnt.provenance))
    return paths
