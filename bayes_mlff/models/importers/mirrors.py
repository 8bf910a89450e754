"""Where the file of a model may be: folders and mirrors that the user names, then its original address.

`BAYES_MLFF_MODELS` names folders and base addresses of mirrors, separated by commas, which are asked in this order. A
folder holds files under the name of the model (`mace-mpa-0.model`) or under the one of their original address
(`mace-mpa-0-medium.model`); a mirror has the latter, right behind its base address. A file of a folder is used where it
is.
"""

import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bayes_mlff.models.known.entry import Download

VARIABLE: Final = "BAYES_MLFF_MODELS"


def named() -> list[str]:
    """The folders and addresses that the user names, in their order."""
    return [part.strip() for part in os.environ.get(VARIABLE, "").split(",") if part.strip()]


def local(name: str, origin: Download) -> Path | None:
    """The file of a model in the first of the user's folders that has it."""
    folders = [Path(part).expanduser() for part in named() if not _is_address(part)]
    paths = (folder / file for folder in folders for file in (f"{name}{origin.suffix}", origin.file))
    return next((path for path in paths if path.is_file()), None)


def addresses(origin: Download) -> list[str]:
    """Addresses from which a file is downloaded: the user's mirrors, then the original one."""
    bases = [part for part in named() if _is_address(part)]
    return [*(f"{base.rstrip('/')}/{origin.file}" for base in bases), origin.url]


def _is_address(part: str) -> bool:
    return urlsplit(part).scheme in ("http", "https")
