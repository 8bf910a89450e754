"""Directories of runs whose ensembles were drawn at random, for what only uses them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import yaml

from bayes_mlff.core import settings
from bayes_mlff.data.structure import Structure
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.models import registry
from bayes_mlff.otf import artefact, config
from bayes_mlff.otf.first_state import first_state
from bayes_mlff.otf.problem import prepare
from bayes_mlff.runs import checkpoint
from bayes_mlff.runs.directory import RunDirectory
from bayes_mlff.runs.start import Start, contents


def write(folder: Path, raw: Mapping[str, Any], structure: Structure, model: registry.Potential) -> Path:
    """A run that ended after no step at all; returns its directory."""
    registry.save(model, folder / "model.safetensors", {})
    parsed = config.parse({**yaml.safe_load(yaml.safe_dump(dict(raw))), "model": str(folder / "model.safetensors")})
    problem = prepare(parsed, structure, registry.for_atoms(model, structure.numbers))
    run = RunDirectory(folder / "source")
    start = Start(InitialStructure(structure), problem.potential, "sha256:x", "nothing", folder)
    run.create(settings.dump(problem.config), contents(start))
    keys = jax.random.split(jax.random.key(0), 3)
    state = first_state(problem, *keys)
    artefact.Artefact(problem.config, problem.potential, run).keep(state, structure)
    checkpoint.write(run.checkpoints, 0, state.device, state.host.to_json() | {"sizes": {}})
    artefact.publish(run)
    return run.path
