"""Enlarges the neighbour list for a geometry with too many neighbours."""

from collections.abc import Sequence

import numpy as np

from bayes_mlff.data import neighbors
from bayes_mlff.data.neighbors import NeighborSpec, NeighborState
from bayes_mlff.data.origin import Origin
from bayes_mlff.data.structure import Structure
from bayes_mlff.md.integrators import MDState
from bayes_mlff.otf.problem import Problem
from bayes_mlff.otf.state import HostState, RunState


def structure_of(problem: Problem, md: MDState, host: HostState) -> Structure:
    """The present geometry in the coordinates of the structure's file."""
    start = problem.structure
    cell = np.asarray(md.cell, np.float64) if problem.integrator.needs_stress else start.cell
    positions = problem.positions(np.asarray(md.position, np.float64), cell, host.origin)
    return start._replace(positions=positions, cell=cell)


def with_room(problem: Problem, state: RunState, crowded: MDState) -> RunState:
    """The last committed state with larger neighbour lists, sufficient for the geometry that did not fit."""
    device, host, spec = state.device, state.host, state.host.spec
    elements = problem.potential.config.elements
    crowd = larger(spec, elements, structure_of(problem, crowded, host))
    roomy, around = roomier(crowd, elements, [(structure_of(problem, device.md, host), host.origin)])
    return RunState(device._replace(neighbors=around[0]), host._replace(spec=roomy))


def roomier(
    spec: NeighborSpec, elements: tuple[int, ...], present: Sequence[tuple[Structure, Origin]]
) -> tuple[NeighborSpec, list[NeighborState]]:
    """Neighbour lists of present geometries, each with the origin of its positions, for settings that `larger` made."""
    made = [
        neighbors.allocate(structure, elements, spec.r_max, skin=spec.skin, origin=origin)
        for structure, origin in present
    ]
    spec = spec._replace(capacity=max(spec.capacity, *(here.capacity for here, _ in made)))
    return spec, [neighbors.update(neighbors.widen(around, spec.capacity), spec) for _, around in made]


def larger(spec: NeighborSpec, elements: tuple[int, ...], crowd: Structure) -> NeighborSpec:
    """Neighbour list settings with more neighbours or more images, as the crowded geometry needs."""
    slack = 1.25
    while True:
        wanted, _ = neighbors.allocate(crowd, elements, spec.r_max, skin=spec.skin, slack=slack)
        # One more image at a time: for a collapsing cell, the number of images would exhaust the memory.
        images = tuple(old + (new > old) for new, old in zip(wanted.images, spec.images, strict=True))
        if wanted.capacity > spec.capacity or images != spec.images:
            return spec._replace(capacity=max(wanted.capacity, spec.capacity), images=images)
        slack *= 1.25
