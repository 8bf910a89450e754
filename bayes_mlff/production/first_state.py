"""State of a production before its first step, and at the begin of a further part."""

import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.data import neighbors
from bayes_mlff.data import origin as origins
from bayes_mlff.md import replicas
from bayes_mlff.md.integrators import MDState, centre_velocity, initial_state, kinetic_energy
from bayes_mlff.otf import motion as motions
from bayes_mlff.production.setup import Setup
from bayes_mlff.production.state import DeviceState, HostState, ProductionState
from bayes_mlff.production.tally import Tally


def first_state(setup: Setup) -> ProductionState:
    """The structure with the first velocities of each replica, and no forces yet."""
    config, structure, part = setup.config, setup.structure, setup.parts[0]
    origin, held = origins.find(structure), motions.fixed(structure)
    skin = part.dynamics.skin_angstrom
    spec, near = neighbors.allocate(structure, setup.elements, setup.r_max, skin=skin, origin=origin)
    near = neighbors.update(near, spec)
    mds = []
    for i, dynamics in enumerate(part.each):
        md = initial_state(
            near.graph.positions,
            structure.numbers,
            dynamics.initial_temperature_k,
            jax.random.key(config.seed + i),
            cell=near.graph.cell,
            masses=setup.motion.masses,
            free=jnp.asarray(~held) if held.any() else None,
        )
        given = setup.motion.momenta
        mds.append(md if given is None else md.set(momentum=jnp.asarray(given, md.momentum.dtype)))
    count = config.replicas
    device = DeviceState(replicas.stack(mds), replicas.stack([near] * count))
    host = HostState(0, 0, spec, (origin,) * count, _kinetic(device.md), (None,) * count, ((Tally(),) * count,))
    return ProductionState(device, host)


def with_forces(setup: Setup, state: ProductionState) -> ProductionState:
    """The state with the forces, and the stress if the production needs it, at its geometry."""
    md, found = state.device.md, setup.evaluate()(setup.params, state.device.neighbors.graph)
    stress = md.stress if found.stress_mean is None else found.stress_mean
    return state._replace(device=state.device._replace(md=md.set(force=found.forces_mean, stress=stress)))


def next_part(setup: Setup, state: ProductionState) -> ProductionState:
    """The state at the begin of the next part: time and work begin anew, a conserved net momentum is taken off."""
    host, md = state.host, state.device.md
    part = setup.parts[host.part + 1]
    if part.integrator.conserves_momentum or part.integrator.needs_stress:
        md = md.set(momentum=md.momentum - md.mass * jax.vmap(centre_velocity)(md))
    zero = jnp.zeros_like
    md = md.set(work=zero(md.work), step=zero(md.step), strain=zero(md.strain))
    tallies = (*host.tallies, (Tally(),) * setup.config.replicas)
    host = host._replace(part=host.part + 1, step=0, confirmed_ev=_kinetic(md), tallies=tallies)
    return ProductionState(state.device._replace(md=md), host)


def _kinetic(md: MDState) -> tuple[float, ...]:
    return tuple(float(x) for x in np.asarray(jax.vmap(kinetic_energy)(md)))
