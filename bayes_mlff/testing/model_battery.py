"""Requirements of every potential, as a class of tests to inherit.

    class TestMyModel(ModelBattery):
        @pytest.fixture(scope="class")
        @classmethod
        def model(cls) -> Model:
            return Model(node_fn, params, elements=(1, 6, 8), r_max=4.0)

The tests need float64 (`jax_enable_x64`). They compare virials V·S: in non-periodic directions the
cell is completed by unit normals, so that V·S is the derivative of the energy along all six strains for molecules
and slabs too, although their stress has no physical meaning.
"""

from typing import NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from bayes_mlff.data.graph import Graph, volume
from bayes_mlff.data.neighbors import NeighborState, allocate, move, update
from bayes_mlff.data.structure import Structure
from bayes_mlff.models.energetics import NodeFn, NodeOutput, Params, predictor
from bayes_mlff.testing import structures, tolerances

PROPERTY = hypothesis.settings(
    max_examples=8, deadline=None, suppress_health_check=[hypothesis.HealthCheck.differing_executors]
)
SEEDS = st.integers(0, 2**31)
STENCIL = (1, -1, 2, -2)


class Model(NamedTuple):
    """A potential under test."""

    node_fn: NodeFn
    params: Params
    elements: tuple[int, ...]  # atomic numbers, ascending, at least three
    r_max: float  # Å


class Observables(NamedTuple):
    """Prediction of a potential for one structure, without padding."""

    energy: np.ndarray  # [] eV
    forces: np.ndarray  # [n, 3] eV/Å
    virial: np.ndarray  # [3, 3] eV, V·S
    sigma: np.ndarray  # [n] eV/Å


def padded_graph(structure: Structure, elements: tuple[int, ...], r_max: float, atoms: int, slots: int) -> Graph:
    """One structure in float64, padded to `atoms` atoms and `slots` neighbour slots.

    Raises:
      ValueError: if it does not fit.
    """
    spec, state = allocate(structure, elements, r_max, skin=0.0, slack=1.0, dtype=np.float64)
    n, k = len(structure.numbers), spec.capacity
    if n > atoms or k > slots:
        raise ValueError(f"structure has {n} atoms and up to {k} neighbours; allowed: {atoms} and {slots}")
    graph = jax.tree.map(np.asarray, state.graph)
    padded = {"cell": graph.cell}
    for name in ("positions", "species", "node_mask"):
        value = getattr(graph, name)
        padded[name] = np.pad(value, [(0, atoms - n)] + [(0, 0)] * (value.ndim - 1))
    for name in ("neighbors", "shifts", "edge_mask"):
        value = getattr(graph, name)
        padded[name] = np.pad(value, [(0, atoms - n), (0, slots - k)] + [(0, 0)] * (value.ndim - 2))
    return Graph(**padded)


class Evaluator:
    """A compiled model that evaluates structures and counts how often it was traced."""

    def __init__(self, model: Model, *, atoms: int = 10):
        self.model, self.atoms, self.traces = model, atoms, 0
        self.slots = 20 + int(1.4 * 0.14 * 4.0 / 3.0 * np.pi * model.r_max**3)
        self.predict = jax.jit(predictor(self._counted, with_stress=True))

    def _counted(
        self,
        params: Params,
        vectors: jax.Array,
        species: jax.Array,
        neighbors: jax.Array,
        edge_mask: jax.Array,
        receivers: jax.Array | None = None,
    ) -> NodeOutput:
        self.traces += 1
        return self.model.node_fn(params, vectors, species, neighbors, edge_mask, receivers)

    def __call__(self, batch: list[Structure], *, atoms: int = 0, slots: int = 0) -> list[Observables]:
        """Evaluate structures as one batch; `atoms` and `slots` are additional padding."""
        shape = (self.atoms + atoms, self.slots + slots)
        graphs = [padded_graph(s, self.model.elements, self.model.r_max, *shape) for s in batch]
        stacked = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *graphs)
        out = jax.tree.map(np.asarray, self.predict(self.model.params, stacked))
        volumes = np.asarray(volume(stacked.cell))
        for i, s in enumerate(batch):
            assert not out.forces[i, len(s.numbers) :].any(), "forces on padding"
        return [
            Observables(out.energy[i], out.forces[i, :n], out.stress[i] * volumes[i], out.force_sigma[i, :n])
            for i, n in enumerate(len(s.numbers) for s in batch)
        ]

    def pair(self, first: Structure, second: Structure) -> tuple[Observables, Observables]:
        """Evaluate two structures in the shape that most tests share, to avoid compilations."""
        a, b = self([first, second])
        return a, b


def assert_same(got: Observables, expected: Observables, *, scale: float = 0.0) -> None:
    """Compare observables that are equal in exact arithmetic; `scale` is the smallest scale for relative errors."""
    for name in Observables._fields:
        a, b = getattr(got, name), getattr(expected, name)
        size = max(scale, float(np.abs(b).max()), float(np.abs(expected.forces).max()), 1e-6)
        np.testing.assert_allclose(a, b, rtol=0.0, atol=tolerances.SYMMETRY * size, err_msg=name)


def rotated(structure: Structure, rotation: np.ndarray) -> Structure:
    """Positions and cell times the transposed matrix [3, 3]."""
    return structure._replace(positions=structure.positions @ rotation.T, cell=structure.cell @ rotation.T)


def together(first: Structure, second: Structure, distance: float) -> Structure:
    """Two molecules as one structure, the second moved by `distance` Å."""
    positions = np.vstack([first.positions, second.positions + np.array([[distance, 0.0, 0.0]])])
    return first._replace(numbers=np.concatenate([first.numbers, second.numbers]), positions=positions)


def examples(elements: tuple[int, ...]) -> dict[str, Structure]:
    """A molecule, a tilted crystal and a slab made of the model's first three elements."""
    a, b, c = elements[:3]
    molecule = structures.ethanol()
    swap = {1: a, 6: b, 8: c}
    return {
        "molecule": molecule._replace(numbers=np.array([swap[int(z)] for z in molecule.numbers])),
        "crystal": structures.triclinic((b, c, a)),
        "slab": structures.slab((b, c)),
    }


def sample(seed: int, elements: tuple[int, ...]) -> Structure:
    """A random molecule or crystal."""
    rng = np.random.default_rng(seed)
    if seed % 2:
        return structures.random_molecule(rng, int(rng.integers(2, 7)), elements)
    return structures.random_crystal(rng, int(rng.integers(1, 6)), elements)


class ModelBattery:
    """Tests of one potential; a subclass overrides the fixture `model`."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> Model:
        """The potential under test."""
        raise NotImplementedError("a subclass must override the fixture 'model'")

    @pytest.fixture(scope="class")
    @classmethod
    def evaluate(cls, model: Model) -> Evaluator:
        """The potential, compiled."""
        return Evaluator(model)

    @PROPERTY
    @hypothesis.given(seed=SEEDS, rotation=structures.rotations())
    def test_rotation_and_inversion(self, evaluate: Evaluator, seed: int, rotation: np.ndarray) -> None:
        """Under proper and improper rotations energy and σ are invariant; forces and virial rotate."""
        structure = sample(seed, evaluate.model.elements)
        before, after = evaluate.pair(structure, rotated(structure, rotation))
        turned = before._replace(forces=before.forces @ rotation.T, virial=rotation @ before.virial @ rotation.T)
        assert_same(after, turned)
        np.testing.assert_allclose(after.virial, after.virial.T, atol=tolerances.SYMMETRY * np.abs(after.virial).max())

    @PROPERTY
    @hypothesis.given(seed=SEEDS)
    def test_permutation(self, evaluate: Evaluator, seed: int) -> None:
        """The order of the atoms does not matter."""
        structure = sample(seed, evaluate.model.elements)
        order = np.random.default_rng(seed).permutation(len(structure.numbers))
        shuffled = structure._replace(numbers=structure.numbers[order], positions=structure.positions[order])
        before, after = evaluate.pair(structure, shuffled)
        assert_same(after, before._replace(forces=before.forces[order], sigma=before.sigma[order]))

    @PROPERTY
    @hypothesis.given(seed=SEEDS)
    def test_translation(self, evaluate: Evaluator, seed: int) -> None:
        """Moving everything, or an atom by lattice vectors, changes nothing; forces add up to zero."""
        structure = sample(seed, evaluate.model.elements)
        rng = np.random.default_rng(seed)
        lattice = rng.integers(-2, 3, structure.positions.shape) @ structure.cell
        moved = structure._replace(positions=structure.positions + rng.normal(0.0, 5.0, (1, 3)) + lattice)
        before, after = evaluate.pair(structure, moved)
        assert_same(after, before)
        size = max(np.abs(before.forces).max(), 1e-6)
        assert np.abs(before.forces.sum(axis=0)).max() < tolerances.SYMMETRY * size

    def test_batch_equals_singles(self, evaluate: Evaluator) -> None:
        """The result for a structure does not depend on the other structures of the batch."""
        batch = list(examples(evaluate.model.elements).values())
        for first, second in zip(batch, batch[1:] + batch[:1], strict=True):
            assert_same(evaluate.pair(first, second)[0], evaluate([first])[0])

    def test_padding(self, evaluate: Evaluator) -> None:
        """Padding of atoms and neighbours changes nothing."""
        for structure in examples(evaluate.model.elements).values():
            assert_same(evaluate([structure], atoms=3, slots=7)[0], evaluate.pair(structure, structure)[1])

    def test_separate_molecules_add_up(self, evaluate: Evaluator) -> None:
        """Two molecules beyond the cutoff do not interact."""
        rng = np.random.default_rng(5)
        first, second = (structures.random_molecule(rng, 5, evaluate.model.elements) for _ in range(2))
        a, b = evaluate.pair(first, second)
        both, _ = evaluate.pair(together(first, second, 60.0), first)
        joined = Observables(
            a.energy + b.energy,
            np.vstack([a.forces, b.forces]),
            a.virial + b.virial,
            np.concatenate([a.sigma, b.sigma]),
        )
        assert_same(both, joined)

    @pytest.mark.parametrize("kind", ["molecule", "crystal", "slab"])
    def test_slopes(self, evaluate: Evaluator, kind: str) -> None:
        """Central differences: dE = -F·dr on random dr, and dE = V S:ε on random symmetric ε."""
        structure = examples(evaluate.model.elements)[kind]
        exact, _ = evaluate.pair(structure, structure)
        assert np.abs(exact.forces).max() > 1e-3, "a model without forces proves nothing"
        rng, step = np.random.default_rng(3), tolerances.SLOPE_STEP
        for _ in range(3):
            dr, strain = rng.normal(size=structure.positions.shape), rng.normal(size=(3, 3))
            strain = 0.5 * (strain + strain.T)
            slope = _slope(
                evaluate, [structure._replace(positions=structure.positions + s * step * dr) for s in STENCIL]
            )
            size = np.linalg.norm(exact.forces) * np.linalg.norm(dr)
            assert abs(slope + np.sum(exact.forces * dr)) < tolerances.SLOPE * size
            slope = _slope(evaluate, [_strained(structure, s * step * strain) for s in STENCIL])
            size = np.linalg.norm(exact.virial) * np.linalg.norm(strain)
            assert abs(slope - np.sum(exact.virial * strain)) < tolerances.SLOPE * size

    def test_smooth_at_the_cutoff(self, evaluate: Evaluator) -> None:
        """Energy and forces of a pair vanish smoothly at r_max, and there is no interaction beyond."""
        r_max, numbers = evaluate.model.r_max, np.array(evaluate.model.elements[:2])

        def pair(distance: float) -> Structure:
            positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.6 * distance, 0.8 * distance]])
            return Structure(numbers, positions, np.zeros((3, 3)), np.zeros(3, bool))

        far, near = evaluate.pair(pair(r_max - 0.02), pair(r_max - 0.01))
        beyond, inside = evaluate.pair(pair(r_max + 1e-9), pair(r_max - 1e-9))
        assert_same(inside, beyond, scale=1.0)
        assert not beyond.forces.any()
        assert np.abs(far.forces).max() > tolerances.CUTOFF_RATIO * np.abs(near.forces).max() > 0.0
        steps = [abs(x.energy - beyond.energy) for x in (far, near)]
        assert steps[0] > 2.0 * tolerances.CUTOFF_RATIO * steps[1]

    def test_isolated_atoms(self, evaluate: Evaluator) -> None:
        """An isolated atom has the same energy in any cell and at any position, and no force."""
        for number in evaluate.model.elements:
            free = Structure(np.array([number]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool))
            boxed = Structure(np.array([number]), np.full((1, 3), 3.7), 40.0 * np.eye(3), np.ones(3, bool))
            a, b = evaluate.pair(free, boxed)
            np.testing.assert_allclose(b.energy, a.energy, rtol=1e-12)
            assert not a.forces.any() and not b.forces.any() and not b.virial.any()
            pair, _ = evaluate.pair(together(free, free, 50.0), free)
            np.testing.assert_allclose(pair.energy, 2.0 * a.energy, rtol=1e-12)

    def test_extensivity(self, evaluate: Evaluator) -> None:
        """A 2x2x2 supercell has eight times the energy and virial, and the same forces."""
        crystal = examples(evaluate.model.elements)["crystal"]
        one, _ = evaluate.pair(crystal, crystal)
        large = structures.supercell(crystal, (2, 2, 2))
        (eight,) = evaluate([large], atoms=len(large.numbers) - evaluate.atoms)
        expected = Observables(8.0 * one.energy, np.tile(one.forces, (8, 1)), 8.0 * one.virial, np.tile(one.sigma, 8))
        assert_same(eight, expected)

    def test_one_compilation(self, evaluate: Evaluator) -> None:
        """Moved atoms or a new neighbour list of the same shape cause no new compilation."""
        model = evaluate.model
        spec, state = allocate(examples(model.elements)["crystal"], model.elements, model.r_max, dtype=np.float64)
        rng, updates, before = np.random.default_rng(1), [], evaluate.traces

        def counted_update(state: NeighborState) -> NeighborState:
            updates.append(1)
            return update(state, spec)

        renew = jax.jit(counted_update)
        for _ in range(4):
            moved = np.asarray(state.reference) + rng.normal(0.0, 0.05, state.reference.shape)
            state = renew(move(state, jnp.asarray(moved), state.graph.cell))
            out = evaluate.predict(model.params, jax.tree.map(lambda x: x[None], state.graph))
            assert np.isfinite(out.energy).all()
        assert (evaluate.traces - before, len(updates)) == (1, 1)


def _strained(structure: Structure, strain: np.ndarray) -> Structure:
    """Positions and cell under a symmetric strain."""
    deform = np.eye(3) + strain
    return structure._replace(positions=structure.positions @ deform, cell=structure.cell @ deform)


def _slope(evaluate: Evaluator, displaced: list[Structure]) -> float:
    """Derivative from four energies at the steps of `STENCIL`, exact to fourth order in the step."""
    near, far = evaluate.pair(*displaced[:2]), evaluate.pair(*displaced[2:])
    differences = [float(plus.energy - minus.energy) for plus, minus in (near, far)]
    return (8.0 * differences[0] - differences[1]) / (12.0 * tolerances.SLOPE_STEP)
