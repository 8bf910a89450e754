"""Folders of the repository that tests read."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CASES: Final = ROOT / "tests" / "data" / "cases"
