"""Hops of a mobile species between hosts, such as protons between anions."""

from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.analysis import images, states

MARGIN: Final = 0.3
"""Default least difference of the distances to the old and the new host, Å, with which a hop is complete."""


class Hop(NamedTuple):
    """One hop."""

    atom: int  # mobile atom
    before: int  # old host
    after: int  # new host
    left: int  # frame after the last one in which the old host was nearer by the margin
    crossed: int  # first frame of the stretch, until complete, in which the new host is the nearest
    entered: int  # frame in which the hop is complete
    back: bool  # the previous hop of this atom was the opposite one


class Hopping(NamedTuple):
    """Where mobile atoms are in one trajectory."""

    host: np.ndarray  # [t, m] index of the atom that is the host, with hysteresis; -1 before the first is sure
    hops: list[Hop]  # in the order of their crossing
    residence: np.ndarray  # [r] frames between consecutive hops of the same atom


def hopping(
    positions: np.ndarray,
    cells: np.ndarray,
    pbc: np.ndarray,
    mobile: np.ndarray,
    hosts: np.ndarray,
    *,
    margin: float = MARGIN,
) -> Hopping:
    """Follow mobile atoms from host to host.

    The host is the nearest one. Another takes over only when it is nearer by `margin` than all others, so that
    vibrations half-way are no hops. Images of a host count as the same host.

    Args:
      positions: [t, n, 3] Å.
      cells: [t, 3, 3] Å, rows.
      pbc: [3] bool.
      mobile: [m] indices.
      hosts: [h] indices, at least two, none of them mobile.
      margin: Å.
    """
    nearest, lead = _nearest(positions, cells, pbc, mobile, hosts)
    host = np.empty(nearest.shape, int)
    hops, residence = [], []
    for column, atom in enumerate(mobile.tolist()):
        inside = lead[:, column] >= margin
        at = states.with_hysteresis(nearest[:, column], inside)
        host[:, column] = np.where(at >= 0, hosts[at], -1)
        found = states.changes(nearest[:, column], inside)
        ends = list(zip(hosts[found.before].tolist(), hosts[found.after].tolist(), strict=True))
        for i, (before, after) in enumerate(ends):
            frames = (int(found.left[i]), int(found.crossed[i]), int(found.entered[i]))
            hops.append(Hop(atom, before, after, *frames, back=i > 0 and ends[i - 1] == (after, before)))
        residence.append(states.residences(found.crossed, len(positions)))
    return Hopping(host, sorted(hops, key=lambda hop: hop.crossed), np.concatenate(residence or [np.zeros(0, int)]))


def _nearest(
    positions: np.ndarray, cells: np.ndarray, pbc: np.ndarray, mobile: np.ndarray, hosts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Place [t, m] of the nearest host among `hosts`, and by how many Å [t, m] it is nearer than the second."""
    place = np.empty((len(positions), len(mobile)), int)
    lead = np.empty(place.shape)
    for some in images.stretches(len(positions), len(mobile) * len(hosts)):
        vectors = positions[some, None, hosts] - positions[some, mobile, None]
        distance = np.linalg.norm(images.minimum_image(vectors, cells[some], pbc), axis=-1)
        place[some] = np.argmin(distance, axis=-1)
        two = np.partition(distance, 1, axis=-1)
        lead[some] = two[..., 1] - two[..., 0]
    return place, lead


def host_distance(positions: np.ndarray, cells: np.ndarray, pbc: np.ndarray, hops: list[Hop], half: int) -> np.ndarray:
    """Distance between the two hosts of each hop, around its crossing.

    Args:
      positions: [t, n, 3] Å.
      cells: [t, 3, 3] Å, rows.
      pbc: [3] bool.
      hops: of this trajectory.
      half: frames before and after.

    Returns:
      [hops, 2 half + 1] Å: between those images of the hosts that are nearest to the mobile atom when it crosses;
      nan where there is no frame.
    """
    found = np.full((len(hops), 2 * half + 1), np.nan)
    for row, hop in enumerate(hops):
        at = slice(hop.crossed, hop.crossed + 1)
        ends = positions[at, [hop.before, hop.after]] - positions[at, [hop.atom]]
        before, after = images.minimum_image(ends, cells[at], pbc)[0]
        begin, end = max(hop.crossed - half, 0), min(hop.crossed + half + 1, len(positions))
        vectors = positions[begin:end, hop.after] - positions[begin:end, hop.before]
        vectors = images.followed(vectors, cells[begin:end], pbc, after - before, hop.crossed - begin)
        found[row, begin - hop.crossed + half : end - hop.crossed + half] = np.linalg.norm(vectors, axis=-1)
    return found
