"""Enlarges the neighbour list for a geometry with too many neighbours."""

import numpy as np

from bayes_mlff.data import neighbors
from bayes_mlff.data.neighbors import NeighborSpec
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
    larger = _larger(problem, host, structure_of(problem, crowded, host))
    here, around = neighbors.allocate(
        structure_of(problem, device.md, host), elements, spec.r_max, skin=spec.skin, origin=host.origin
    )
    larger = larger._replace(capacity=max(here.capacity, larger.capacity))
    around = neighbors.update(neighbors.widen(around, larger.capacity), larger)
    return RunState(device._replace(neighbors=around), host._replace(spec=larger))


def _larger(problem: Problem, host: HostState, crowd: Structure) -> NeighborSpec:
    """Neighbour list settings with more neighbours or more images, as the crowded geometry needs."""
    spec, slack = host.spec, 1.25
    while True:
        wanted, _ = neighbors.allocate(
            crowd, problem.potential.config.elements, spec.r_max, skin=spec.skin, slack=slack
        )
        # One more image at a time: for a collapsing cell, the number of images would exhaust the memory.
        images = tuple(old + (new > old) for new, old in zip(wanted.images, spec.images, strict=True))
        if wanted.capacity > spec.capacity or images != spec.images:
            return spec._replace(capacity=max(wanted.capacity, spec.capacity), images=images)
        slack *= 1.25
