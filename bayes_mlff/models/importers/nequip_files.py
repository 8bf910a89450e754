"""Packages of NequIP (`.nequip.zip`), as `nequip-package build` of nequip 0.7 and later writes them.

Such a file is an archive by `torch.package`: pickled modules, numbers, and the Python code of the modules. Neither
PyTorch nor nequip is needed to read it, and nothing that it contains is executed, see `torch_pickle`; the code is not
looked at. Of the models in it, which differ in how PyTorch runs them, the one is read that every package has.
"""

import re
import zipfile
from pathlib import Path
from typing import Any, Final

import yaml

from bayes_mlff.core.errors import READER_ERRORS, WeightsError, shown
from bayes_mlff.models.config import Imported
from bayes_mlff.models.importers import torch_pickle
from bayes_mlff.models.importers.nequip_description import describe
from bayes_mlff.models.importers.torch_pickle import Inert
from bayes_mlff.models.importers.torch_weights import from_nequip

SUFFIX: Final = ".nequip.zip"

EAGER: Final = torch_pickle.Layout("model/eager_model.pkl", ".data/{}.storage")
"""The model that is not compiled."""

INERT: Final = ("torch", "e3nn", "nequip")
"""Packages whose classes and functions are kept by name only."""

VERSIONS: Final = ((0, 7), (0, 19))
"""First and last version of nequip whose modules are known; later ones could compute something else by their names."""

LARGEST_TEXT: Final = 1 << 20
"""Bytes of the texts of a package that are read."""

ORIGIN: Final = "allowed: a file as nequip-package build writes it"


def read_model(path: Path) -> Imported:
    """Read the model of a package for all its elements, in float64, with a σ head of zeros.

    Raises:
      WeightsError: if it is no package, is cut off, names a program, or has a model of a form that is not supported.
    """
    _check_version(path)
    try:
        models = torch_pickle.read(path, inert=INERT, layout=EAGER)
    except WeightsError as error:
        raise WeightsError(f"{error}; {ORIGIN}") from error
    try:
        network, type_names = _network(models)
        description = describe(network, type_names)
        return Imported(description.config, from_nequip(description.state, description.config, description.source))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except READER_ERRORS as error:
        raise WeightsError(f"{path}: not a model of NequIP: {type(error).__name__}: {error}; {ORIGIN}") from error


def _check_version(path: Path) -> None:
    """Refuse packages of versions that are not known."""
    try:
        with zipfile.ZipFile(path) as archive:
            texts = {name: _text(archive, name) for name in ("model/package_metadata.txt", "model/versions.txt")}
        stated = [yaml.safe_load(text) if text else None for text in texts.values()]
    except (yaml.YAMLError, *READER_ERRORS) as error:
        raise WeightsError(f"{path}: not a package of NequIP, or damaged: {error}; {ORIGIN}") from error
    metadata, early = (found if isinstance(found, dict) else {} for found in stated)
    versions = metadata.get("versions", early)
    version = str(versions.get("nequip")) if isinstance(versions, dict) else "None"
    numbers = tuple(int(n) for n in re.findall(r"\d+", version[:20])[:2])
    if not VERSIONS[0] <= numbers <= VERSIONS[1]:
        first, last = (".".join(map(str, each)) for each in VERSIONS)
        raise WeightsError(f"{path}: written by nequip {shown(version)}; allowed: versions {first} to {last}; {ORIGIN}")


def _text(archive: zipfile.ZipFile, name: str) -> str:
    """A text of a package; empty if there is none."""
    found = [info for info in archive.infolist() if info.filename.partition("/")[2] == name]
    if not found:
        return ""
    if len(found) > 1 or found[0].file_size > LARGEST_TEXT:
        raise ValueError(f"{name} is there {len(found)} times, with {found[0].file_size} bytes")
    return archive.read(found[0]).decode()


def _network(models: Any) -> tuple[Inert, tuple[str, ...]]:
    """The only network of a package without its wrappers, and its types.

    Raises:
      WeightsError: if there are several models, or another one.
    """
    if not isinstance(models, Inert):
        raise WeightsError(f"holds a {type(models).__name__}; allowed: a model")
    names = list(models._modules) if type(models).__name__ == "ModuleDict" else []
    model = models[0] if len(names) == 1 else models
    if len(names) > 1:
        raise WeightsError(f"holds the models {shown(names)}; allowed: one")
    if type(model).__name__ != "GraphModel":
        raise WeightsError(f"holds a {type(model).__name__}; allowed: a GraphModel")
    inner = model.model.func if type(model.model).__name__ == "ForceStressOutput" else model.model
    if type(inner).__name__ != "SequentialGraphNetwork":
        raise WeightsError(f"holds a model that is a {type(inner).__name__}; allowed: a SequentialGraphNetwork")
    return inner, tuple(str(name) for name in model.type_names)
