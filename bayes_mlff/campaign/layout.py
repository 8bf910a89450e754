"""Names of files and folders in the directory of a campaign."""

from typing import Final

MARK: Final = "campaign.json"
"""A directory is a campaign only if it has this file."""

WALKERS: Final = "walkers"
SPOOL: Final = "spool"
"""Folder of labels that were calculated and not yet learnt."""
