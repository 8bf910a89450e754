"""The weights that a run has learnt, as files that other programs start from."""

from pathlib import Path

import jax.numpy as jnp

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.models import architectures, registry
from bayes_mlff.models.potential import Potential
from bayes_mlff.runs import checkpoint

PARAMETERS = ".params"
"""Where a checkpoint has the weights of the chains, [c, p]."""


def export(
    run: Path,
    potential: Potential,
    folder: Path,
    *,
    template: Path | None = None,
    trust: bool = False,
) -> list[Path]:
    """Write each chain of a run's newest checkpoint to a file of its own; together they are the committee.

    Args:
      run: directory of the run.
      potential: the model that it was started from, for its elements; with a template the files know all of the
        template's.
      folder: where to write `chain_0` and so on; made if it is missing.
      template: the `.model` file of mace-torch that the run started from; without one, safetensors files are written
        that `model` in a configuration takes.
      trust: run the programs that the template contains.

    Returns:
      The files. Their energies have the origin of the pretrained model: the reference's plus the offset of the run.

    Raises:
      RunDirectoryError: if there is no intact checkpoint.
      ConfigError: if there is something in the folder, or if there is a template without trust, or for
        an architecture that is not written as files of another program.
      WeightsError: if the template is of another architecture.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("output", str(folder), "a new or an empty folder")
    arrays, metadata, _ = checkpoint.newest(run / "checkpoints")
    _, unravel = potential.flat()
    chains = [unravel(jnp.asarray(row)) for row in arrays[PARAMETERS]]
    folder.mkdir(parents=True, exist_ok=True)
    if template is not None:
        form, write = architectures.written_format(potential.config)
        paths = [folder / f"chain_{i}{form.suffix}" for i in range(len(chains))]
        write(potential.config, chains, template, paths, trust=trust)
        return paths
    paths = [folder / f"chain_{i}.safetensors" for i in range(len(chains))]
    about = {"run": run.name, "step": str(metadata["step"]), "offset_ev": repr(metadata["offset_ev"])}
    for params, path in zip(chains, paths, strict=True):
        registry.save(Potential(potential.config, params), path, about)
    return paths
