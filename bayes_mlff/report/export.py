"""Export of the fine-tuned weights of a run to files for other programs."""

from pathlib import Path

import jax.numpy as jnp

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.models import architectures, registry
from bayes_mlff.models.potential import Potential
from bayes_mlff.runs import checkpoint

PARAMETERS = ".params"
"""Path of the weights of the chains, [c, p], in a checkpoint."""


def export(
    run: Path,
    potential: Potential,
    folder: Path,
    *,
    template: Path | None = None,
    trust: bool = False,
) -> list[Path]:
    """Write each chain of a run's newest checkpoint to a separate file; together they are the committee.

    Args:
      run: directory of the run.
      potential: the model from which the run started, for the elements of the run; with a template, the files
        contain all elements of the template.
      folder: where to write `chain_0` and so on; made if it is missing.
      template: the `.model` file of mace-torch that the run started from; without one, safetensors files are written
        that `model` in a configuration takes.
      trust: allow that programs in the template are executed.

    Returns:
      Paths of the files. Their energies have the zero of the pretrained model: reference energy plus the offset of the
      run.

    Raises:
      RunDirectoryError: if there is no intact checkpoint.
      ConfigError: if the folder is not empty, if there is a template but `trust` is False, or if there is no export
        for the architecture.
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
