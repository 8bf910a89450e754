"""What a user may choose for an analysis; None leaves the choice to it, and it says what it took."""

from typing import Final, NamedTuple

from bayes_mlff.analysis import hopping, torsions
from bayes_mlff.analysis.replica import Replica

SKIPPED: Final = 0.1
"""Share of each trajectory that averages leave out by default, as equilibration."""


class Options(NamedTuple):
    """Choices for all analyses."""

    skip_ps: float | None = None  # begin of each trajectory that is left out
    pairs: tuple[tuple[str, str], ...] | None = None  # of elements, for distances and bonds: centre and neighbour
    r_max: float | None = None  # Å
    bin_width: float = 0.05  # Å
    cutoff: float | None = None  # Å, largest length of a bond
    species: tuple[str, ...] | None = None  # elements whose displacements are followed
    keep_drift: bool = False  # whether the motion of the centre of mass stays in
    resolution: float | None = None  # cm⁻¹
    dihedral: tuple[int, int, int, int] | None = None  # atoms, from 0
    core_deg: float = torsions.CORE_DEG
    mobile: str | None = None  # element
    hosts: tuple[str, ...] | None = None  # elements
    margin: float = hopping.MARGIN  # Å
    events_fs: tuple[float, ...] | None = None
    window_fs: float = 50.0  # before and after an event
    profile_fs: float = 200.0  # before and after a hop


def averaged(replicas: list[Replica], options: Options) -> tuple[list[Replica], str]:
    """The replicas as averages over an equilibrium use them, and which begin was left out."""
    if options.skip_ps is not None:
        return whole(replicas, options)
    if any(replica.time_fs is None for replica in replicas):
        return replicas, "no begin left out, since there are no times"
    lengths = [SKIPPED * float(replica.times()[-1] - replica.times()[0]) for replica in replicas]
    said = f"the first {max(lengths) / 1e3:.3g} ps left out as equilibration (a tenth; --skip-ps)"
    return [replica.since(length) for replica, length in zip(replicas, lengths, strict=True)], said


def whole(replicas: list[Replica], options: Options) -> tuple[list[Replica], str]:
    """The replicas as histories and counts of events use them: from the begin, unless the user says otherwise."""
    if not options.skip_ps:
        return replicas, "no begin left out (--skip-ps)"
    kept = [replica.since(1e3 * options.skip_ps) for replica in replicas]
    return kept, f"the first {options.skip_ps:g} ps left out as told"
