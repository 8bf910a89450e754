"""Functions and constants of a production, made once from its settings and its material."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.graph import Graph
from bayes_mlff.data.neighbors import NeighborSpec, species_index
from bayes_mlff.data.structure import Structure, repeated
from bayes_mlff.ensemble.predictive import Predictive
from bayes_mlff.ensemble.saved import flat_predictor
from bayes_mlff.md import replicas
from bayes_mlff.md.chunk import RunChunk, dynamics_budget
from bayes_mlff.md.integrators import Integrator
from bayes_mlff.md.predictors import batch_predictor, linear_predictor, on_devices
from bayes_mlff.md.replicas import Varied
from bayes_mlff.md.schedule import Schedule
from bayes_mlff.md.settings import DynamicsConfig
from bayes_mlff.md.vacuum import refuse_vacuum
from bayes_mlff.otf import advice
from bayes_mlff.otf import motion as motions
from bayes_mlff.otf.integrator import make_integrator, refuse_direct_forces
from bayes_mlff.otf.motion import Motion
from bayes_mlff.otf.problem import GROUPS
from bayes_mlff.parallel.devices import chain_mesh, on_all
from bayes_mlff.posterior import energy_zero
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.production import watch as watching
from bayes_mlff.production.config import ProductionConfig, n_steps, schedules_of
from bayes_mlff.production.material import Material
from bayes_mlff.production.watch import Watch
from bayes_mlff.runs import compact_frames
from bayes_mlff.runs.recorder import Recording
from bayes_mlff.sghmc.run import preferred_axis


class Part(NamedTuple):
    """One part of a production: dynamics with one ensemble and one time step."""

    name: str  # 'equilibration' or 'dynamics'
    dynamics: DynamicsConfig
    each: tuple[DynamicsConfig, ...]  # with the temperature of each replica
    integrator: Integrator  # of the first replica, for what all have in common
    varied: Varied
    n_steps: int
    before: int  # number of steps of the parts before


class Setup(NamedTuple):
    """Functions and constants of a production."""

    config: ProductionConfig
    structure: Structure  # all copies
    motion: Motion  # masses, and initial momenta if they are not drawn at random
    elements: tuple[int, ...]
    r_max: float
    params: jax.Array  # [c, p + 1], samples of `posterior.energy_zero`
    atomic_ev: float  # added to energies of the network: mean of the samples' sums of atomic reference energies
    ways: tuple[Callable[..., Predictive], ...]  # (samples, graphs [r, ...]) -> Predictive with decreasing memory
    mesh: Mesh
    with_stress: bool
    watch: Watch
    parts: tuple[Part, ...]
    remarks: tuple[tuple[str, str], ...]  # (topic, sentence) about what is assumed

    @property
    def has_sigma(self) -> bool:
        """Whether there are several samples, between which predictions differ."""
        return len(self.params) > 1

    @property
    def n_steps(self) -> int:
        """Number of steps of all parts."""
        return self.parts[-1].before + self.parts[-1].n_steps

    def chunk(self, part: Part, spec: NeighborSpec) -> RunChunk:
        """Make the function for up to `chunk_steps` steps of all replicas; compiled once at its first call."""
        return replicas.make_replicas(
            self.ways[0],
            part.varied,
            spec,
            part.dynamics.chunk_steps,
            mesh=self.mesh,
            low_memory=self.ways[1:],
            memory_gib=part.dynamics.memory_gib,
        )

    def evaluate(self) -> Callable[[jax.Array, Graph], Predictive]:
        """Make the function that predicts all replicas once, within the memory of the dynamics."""
        budget = dynamics_budget(self.mesh, self.config.dynamics.memory_gib)
        return on_all(on_devices(self.ways, self.mesh), self.mesh, budget)

    def recording(self, part: Part) -> Recording:
        """Constants for the rows and frames of a part."""
        dynamics, structure = part.dynamics, self.structure
        return Recording(
            structure=structure,
            masses=self.motion.masses,
            positions=partial(motions.everywhere, structure),
            timestep_fs=dynamics.timestep_fs,
            n_steps=part.n_steps,
            thermo_every=dynamics.thermo_every,
            trajectory_every=dynamics.trajectory_every,
            moving_cell=any(each.integrator.needs_stress for each in self.parts),
            degrees_of_freedom=part.integrator.degrees_of_freedom(len(structure.numbers), structure.fixed),
            carried_ev=self.motion.carried_ev if part.before == 0 else 0.0,
        )


def prepare(config: ProductionConfig, material: Material) -> Setup:
    """Build the functions of a production.

    Raises:
      ConfigError: if a setting does not fit the structure or the model, or a package is not installed.
      DataError: if the ensemble does not know an element of the structure, or all coordinates are held.
    """
    if config.format == "netcdf":
        compact_frames.library()
    material.ensemble.require_forces("dynamics")
    initial, ensemble = material.initial, material.ensemble
    structure, architecture = repeated(initial.structure, config.supercell), ensemble.architecture
    species_index(structure.numbers, architecture.elements)
    parts = _parts(config, structure)
    for part in parts:
        _refuse_unfit(part, structure, material)
    copies = len(structure.numbers) // len(initial.structure.numbers)
    velocities = None if initial.velocities is None else np.tile(initial.velocities, (copies, 1))
    motion = motions.begin(parts[0].dynamics, structure, velocities, parts[0].integrator)
    atomic = ensemble.atomic_reference_energy(structure.numbers)
    with_stress = structure.is_periodic and any(part.integrator.needs_stress for part in parts)
    predict = energy_zero.with_zero(flat_predictor(architecture, with_stress=with_stress))
    energy_sigma = watching.sigma_floor_ev(material, len(structure.numbers))
    single = len(ensemble.samples) == 1

    watched = watching.watch(material, config, structure)

    def way(at_once: int | None) -> Callable[..., Predictive]:
        if ensemble.linear:
            with_forces = any(trigger.statistic.of_atoms for trigger in watched.triggers)
            likelihood = Likelihood(energy_sigma, ensemble.stress_sigma_ev_a3)
            return linear_predictor(architecture, likelihood, with_stress=with_stress, with_forces=with_forces)
        return batch_predictor(
            predict, energy_sigma, ensemble.stress_sigma_ev_a3, at_once=at_once, allow_single_chain=single
        )

    return Setup(
        config,
        structure,
        motion,
        architecture.elements,
        architecture.r_max,
        energy_zero.joined(ensemble.samples, jnp.asarray(atomic - np.mean(atomic), ensemble.samples.dtype)),
        float(np.mean(atomic)),
        tuple(map(way, (None, *(() if ensemble.linear else GROUPS[preferred_axis()])))),
        chain_mesh(len(ensemble.models)),
        with_stress,
        watched,
        parts,
        tuple(_remarks(config, material, structure, motion, parts)),
    )


def _parts(config: ProductionConfig, structure: Structure) -> tuple[Part, ...]:
    found: list[Part] = []
    for name, dynamics in config.segments().items():
        each = tuple(config.of_replica(dynamics, i) for i in range(config.replicas))
        for one in each:
            _checked(name, one, structure)
        schedules = Schedule(*(np.stack(values) for values in zip(*schedules_of(config, dynamics), strict=True)))
        before = sum(part.n_steps for part in found)
        varied = Varied(partial(make_integrator, dynamics, structure), schedules)
        integrator = make_integrator(each[0], structure)
        found.append(Part(name, dynamics, each, integrator, varied, n_steps(dynamics), before))
    if sum(part.n_steps for part in found) >= 2**31:
        raise ConfigError("dynamics.duration_ps", config.dynamics.duration_ps, "less than 2147483648 steps in all")
    return tuple(found)


def _checked(name: str, dynamics: DynamicsConfig, structure: Structure) -> None:
    """Refuse dynamics that do not fit a structure, naming the part."""
    try:
        make_integrator(dynamics, structure)
    except ConfigError as error:
        raise ConfigError(_named(error.key, name), error.value, error.allowed) from error


def _named(key: str, part: str) -> str:
    return f"{part}{key.removeprefix('dynamics')}" if key.startswith("dynamics.") else key


def _refuse_unfit(part: Part, structure: Structure, material: Material) -> None:
    dynamics, architecture = part.dynamics, material.ensemble.architecture
    try:
        refuse_direct_forces(dynamics, architecture)
        if dynamics.ensemble == "npt" and structure.is_periodic:
            refuse_vacuum(structure, dynamics.barostat.free, architecture.r_max)
    except ConfigError as error:
        raise ConfigError(_named(error.key, part.name), error.value, error.allowed) from error
    hot = [each.temperature_k for each in part.each]
    if dynamics.ensemble == "nve" and part.before == 0 and 0.0 in hot and dynamics.velocities == "draw":
        raise ConfigError(f"{part.name}.temperature_k", 0.0, "more than 0, or nothing would move")


def _remarks(
    config: ProductionConfig, material: Material, structure: Structure, motion: Motion, parts: tuple[Part, ...]
) -> list[tuple[str, str]]:
    """What is assumed, for the user."""
    said = [("structure", text) for text in material.initial.remarks]
    copies, unit = config.supercell, len(material.initial.structure.numbers)
    if copies != (1, 1, 1):
        times = " x ".join(map(str, copies))
        said.append(("supercell", f"{times} copies of {unit} atoms: {len(structure.numbers)} atoms"))
    if structure.electronic.multiplicity is None and material.initial.structure.electronic.multiplicity is not None:
        said.append(("supercell", "the multiplicity of one copy is left out; energies are those of the trained state"))
    said += list(motion.remarks)
    for part in parts:
        keeps = part.integrator.conserves_momentum or part.integrator.needs_stress
        if part.before > 0 and keeps:
            said.append((part.name, "begins at the end of the equilibration, with the centre of mass at rest"))
        unused = [_named(key, part.name) for key in part.dynamics.unused]
        if unused:
            said.append(("warning", f"not used in these dynamics: {', '.join(unused)}"))
        warning = advice.of_structure(part.dynamics.timestep_fs, structure)
        if warning is not None:
            said.append(("warning", _named(warning, part.name)))
    return said
