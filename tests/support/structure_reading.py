"""Small structure files, and the reader with settings by their keys."""

from pathlib import Path
from typing import Final

from bayes_mlff.data import structure_files
from bayes_mlff.data.structure_files import InitialStructure
from bayes_mlff.data.structure_settings import StructureSettings
from tests.support.places import CASES

AMMONIA: Final = "N 0 0 0.07\nH 0 0.94 -0.32\nH 0.81 -0.47 -0.32\nH -0.81 -0.47 -0.32\n"
PLAIN: Final = "Properties=species:S:1:pos:R:3"


def read(path: Path | str, **settings: object) -> InitialStructure:
    return structure_files.read(StructureSettings.model_validate({"file": str(path), **settings}), Path(path))


def case(name: str, **settings: object) -> InitialStructure:
    return read(CASES / name, **settings)


def said(found: InitialStructure) -> str:
    return "\n".join(found.remarks)


def xyz(folder: Path, comment: str = PLAIN, body: str = AMMONIA, frames: int = 1) -> Path:
    path = folder / "a.xyz"
    path.write_text(f"{len(body.splitlines())}\n{comment}\n{body}" * frames)
    return path
