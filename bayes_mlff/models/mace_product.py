"""The product basis of MACE (Batatia et al. 2022, arXiv:2206.07697, eq. 10 and 11) in nested form.

An atom's features x (one irrep of each degree 0..l_max, natural parity) are multiplied with themselves up to
`correlation` times, and every equivariant product is weighted by element and channel. MACE writes the products of
one order as U[w, i, j, k, p] x_i x_j x_k, where p counts ways of coupling the factors one after the other. Most
of these ways differ only in the order of the factors and give the same product or zero. The weights keep MACE's
form, [elements, p, channels], so that they and their prior can be used unchanged. Only a minimal set of
independent products is evaluated; their weights are linear functions of MACE's.
"""

import itertools
from functools import lru_cache
from typing import NamedTuple

import e3nn_jax as e3nn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bayes_mlff.models.equivariant import Features, degree

TOLERANCE = 1e-8
"""Residual below which a product is a linear combination of others; coefficients are of order one."""


OPPOSITE = frozenset(
    {(1, 2, 2), (1, 3, 3), (1, 4, 4), (1, 5, 5), (1, 6, 6), (3, 4, 6), (4, 4, 5), (4, 5, 6), (5, 5, 5), (5, 6, 6)}
)
"""Degrees whose couplings have opposite signs in e3nn-jax and in e3nn 0.4.4, which mace-torch uses."""


class Term(NamedTuple):
    """One product of three factors: ((l1 l2) middle, l3) coupled to the output degree."""

    l1: int
    l2: int
    middle: int
    l3: int


class Reduction(NamedTuple):
    """Relation between MACE's products of one order and output degree and the independent ones."""

    terms: tuple[Term, ...]  # independent products
    matrix: np.ndarray  # [terms, p], maps MACE's weights to those of the independent products


def natural(l: int) -> str:
    """The irrep of degree l with the parity of the spherical harmonics."""
    return f"{l}{'eo'[l % 2]}"


@lru_cache
def wigner(l1: int, l2: int, l3: int) -> np.ndarray:
    """Real coupling coefficients [2l1+1, 2l2+1, 2l3+1] of unit norm, degrees up to 6, with the signs of e3nn 0.4.4."""
    sign = -1.0 if tuple(sorted((l1, l2, l3))) in OPPOSITE else 1.0
    return sign * np.asarray(e3nn.clebsch_gordan(l1, l2, l3), np.float64)


@lru_cache
def couplings(l_max: int, order: int) -> tuple[tuple[tuple[int, int], np.ndarray], ...]:
    """All ways of coupling `order` copies of the irreps 0..l_max one after the other.

    Returns:
      Pairs of ((degree, parity), coefficients [2l+1, d, ..., d]) with d = (l_max+1)², ascending in (degree, parity);
      ways with the same result are in the order of their construction. Component normalisation.
    """
    d = (l_max + 1) ** 2
    if order == 1:
        eye = np.eye(d)
        return tuple(((l, (-1) ** l), eye[l * l : (l + 1) ** 2]) for l in range(l_max + 1))
    found = []
    for (left, sign), tensor in couplings(l_max, order - 1):
        for l in range(l_max + 1):
            for out in range(abs(left - l), left + l + 1):
                c = wigner(out, left, l) * np.sqrt(2 * out + 1)
                full = np.zeros((2 * out + 1, *(d,) * order))
                full[..., l * l : (l + 1) ** 2] = np.einsum("ojm,j...->o...m", c, tensor)
                found.append(((out, sign * (-1) ** l), full))
    return tuple(sorted(found, key=lambda item: item[0]))


@lru_cache
def generalized_coupling(l_max: int, l_out: int, order: int) -> np.ndarray:
    """MACE's U for the natural irrep of degree l_out: [2l_out+1, d, ..., d, p]; p = 0 if no coupling exists."""
    ways = [tensor for ir, tensor in couplings(l_max, order) if ir == (l_out, (-1) ** l_out)]
    if not ways:
        return np.zeros((2 * l_out + 1, *((l_max + 1) ** 2,) * order, 0))
    return np.stack(ways, axis=-1)


def symmetrized(tensor: np.ndarray) -> np.ndarray:
    """Average coefficients [2l+1, d, ..., d, p] over all orders of the factors; returns a matrix [numbers, p].

    Only this part contributes to products of a vector with itself.
    """
    order = tensor.ndim - 2
    orders = list(itertools.permutations(range(1, order + 1)))
    total = sum(np.transpose(tensor, (0, *axes, order + 1)) for axes in orders)
    return np.asarray(total / len(orders)).reshape(-1, tensor.shape[-1])


def pairs(l_max: int, l_out: int) -> tuple[tuple[int, int], ...]:
    """Pairs l1 <= l2 whose product has natural parity and degree l_out."""
    return tuple(
        (a, b)
        for a in range(l_max + 1)
        for b in range(a, l_max + 1)
        if b - a <= l_out <= a + b and not (a + b + l_out) % 2
    )


@lru_cache
def reduction(l_max: int, l_out: int, order: int) -> Reduction:
    """Find independent products of two or three factors, and their weights from MACE's.

    Args:
      l_max: highest degree of the factors.
      l_out: degree of the product.
      order: 2 or 3; for two factors `l3` is -1 and `middle` is l_out.

    Returns:
      Terms, in order of rising intermediate degree, and the matrix of weights.
    """
    if order == 2:
        candidates = [Term(a, b, l_out, -1) for a, b in pairs(l_max, l_out)]
    else:
        candidates = [
            Term(a, b, middle, c)
            for middle in range(l_max + l_out + 1)
            for a in range(l_max + 1)
            for b in range(a, l_max + 1)
            for c in range(b, l_max + 1)
            if b - a <= middle <= a + b and abs(middle - c) <= l_out <= middle + c
            if (a + b + c + l_out) % 2 == 0 and not (a == b and middle % 2)
        ]
    kept, columns, basis = [], [], np.zeros((0, 0))
    for term in candidates:
        column = symmetrized(_dense(l_max, l_out, term)[..., None])[:, 0]
        rest = column - basis.T @ (basis @ column) if kept else column
        if np.linalg.norm(rest) > TOLERANCE * max(1.0, np.linalg.norm(column)):
            rest = rest - basis.T @ (basis @ rest) if kept else rest
            rest = rest / np.linalg.norm(rest)
            basis = np.vstack([basis, rest]) if kept else rest[None, :]
            kept.append(term)
            columns.append(column)
    target = symmetrized(generalized_coupling(l_max, l_out, order))
    if not kept:
        return Reduction((), np.zeros((0, target.shape[1])))
    ours = np.stack(columns, axis=-1)
    matrix, *_ = np.linalg.lstsq(ours, target, rcond=None)
    if not np.allclose(ours @ matrix, target, rtol=0.0, atol=TOLERANCE):
        raise AssertionError(f"products of degree {l_out} and order {order} are incomplete for l_max {l_max}")
    return Reduction(tuple(kept), np.where(np.abs(matrix) < 1e-13, 0.0, matrix))


def _dense(l_max: int, l_out: int, term: Term) -> np.ndarray:
    """Coefficients [2l_out+1, d, d(, d)] of one product."""
    d = (l_max + 1) ** 2
    at = [slice(l * l, (l + 1) ** 2) for l in range(l_max + 1)]
    first = wigner(term.l1, term.l2, term.middle)
    if term.l3 < 0:
        full = np.zeros((2 * l_out + 1, d, d))
        full[:, at[term.l1], at[term.l2]] = np.einsum("abM->Mab", first)
        return full
    full = np.zeros((2 * l_out + 1, d, d, d))
    second = wigner(term.middle, term.l3, l_out)
    full[:, at[term.l1], at[term.l2], at[term.l3]] = np.einsum("abM,Mco->oabc", first, second)
    return full


class ProductBasis(nn.Module):
    """Weighted products of an atom's features with themselves."""

    out: tuple[str, ...]
    l_max: int
    correlation: int

    @nn.compact
    def __call__(self, x: Features, one_hot: jax.Array) -> Features:
        """Compute the weighted products.

        Args:
          x: [n, 2l+1, channels] of each natural irrep up to l_max.
          one_hot: [n, elements] one-hot element of each atom.

        Returns:
          `{irrep: [n, 2l+1, channels]}` for the irreps in `out`.
        """
        flat = [jnp.swapaxes(x[natural(l)], 0, 1) for l in range(self.l_max + 1)]  # [2l+1, n, channels]
        elements, channels = one_hot.shape[1], flat[0].shape[-1]
        plans = {ir: self._weights(ir, one_hot, elements, channels, flat[0].dtype) for ir in self.out}
        squares = _squares(flat, {t for plan in plans.values() for order in plan.values() for t in order})
        result = {}
        for ir, plan in plans.items():
            product = _contract(degree(ir), flat, squares, plan)
            result[ir] = jnp.swapaxes(product, 0, 1)
        return result

    def _weights(
        self, irrep: str, one_hot: jax.Array, elements: int, channels: int, dtype: jnp.dtype
    ) -> dict[int, dict[Term, jax.Array]]:
        """Weight [n, channels] of every independent product for an irrep, by order."""
        plan: dict[int, dict[Term, jax.Array]] = {}
        l = degree(irrep)
        for order in range(1, self.correlation + 1):
            p = generalized_coupling(self.l_max, l, order).shape[-1]
            if p == 0:
                continue
            initial = nn.initializers.normal(1.0 / p)
            weight = self.param(f"weight_{irrep}_{order}", initial, (elements, p, channels), dtype)
            terms: tuple[Term, ...] = (Term(l, -1, l, -1),)
            if order > 1:
                terms, matrix = reduction(self.l_max, l, order)
                weight = jnp.einsum("rp,epc->erc", jnp.asarray(matrix, dtype), weight)
            # A matrix product with the one-hot element: the gradient of a gather would be a slow scatter.
            atoms = (one_hot @ weight.reshape(elements, -1)).reshape(-1, len(terms), channels)
            plan[order] = {term: atoms[:, i, :] for i, term in enumerate(terms)}
        return plan


def _squares(x: list[jax.Array], terms: set[Term]) -> dict[tuple[int, int, int], jax.Array]:
    """Coupled products of two factors that the terms need: `{(l1, l2, middle): [2 middle+1, n, channels]}`."""
    wanted: dict[tuple[int, int], list[int]] = {}
    for a, b, middle in sorted({(t.l1, t.l2, t.middle) for t in terms if t.l2 >= 0}):
        wanted.setdefault((a, b), []).append(middle)
    found = {}
    for (a, b), middles in wanted.items():
        if a == 0:
            found[a, b, b] = x[0] * x[b] * float(wigner(0, b, b)[0, 0, 0])
            continue
        c = np.concatenate([wigner(a, b, m).reshape(-1, 2 * m + 1) for m in middles], axis=1)
        parts = _matmul(c.T, _outer(x[a], x[b]))
        edges = np.cumsum([2 * m + 1 for m in middles])[:-1].tolist()
        found |= {(a, b, m): part for m, part in zip(middles, jnp.split(parts, edges), strict=True)}
    return found


def _contract(
    l_out: int,
    x: list[jax.Array],
    squares: dict[tuple[int, int, int], jax.Array],
    plan: dict[int, dict[Term, jax.Array]],
) -> jax.Array:
    """Sum of weighted products of one output degree: [2l_out+1, n, channels]."""
    total = jnp.zeros((2 * l_out + 1, *x[0].shape[1:]), x[0].dtype)
    for weight in plan.get(1, {}).values():
        total = total + weight[None] * x[l_out]
    for term, weight in plan.get(2, {}).items():
        total = total + weight[None] * squares[term.l1, term.l2, l_out]
    sums: dict[int, dict[int, jax.Array]] = {}
    for term, weight in plan.get(3, {}).items():
        part = weight[None] * squares[term.l1, term.l2, term.middle]
        by_middle = sums.setdefault(term.l3, {})
        by_middle[term.middle] = by_middle[term.middle] + part if term.middle in by_middle else part
    for l3, by_middle in sums.items():
        if l_out == 0:
            total = total + jnp.sum(by_middle[l3] * x[l3], axis=0, keepdims=True) * float(wigner(l3, l3, 0)[0, 0, 0])
            continue
        # First couple the weighted squares to the degree of the last factor: few components, one matrix product.
        c = np.concatenate([wigner(m, l3, l_out).reshape(2 * m + 1, -1) for m in by_middle], axis=0)
        rows = _matmul(c.T, jnp.concatenate(list(by_middle.values())))
        rows = rows.reshape(2 * l3 + 1, 2 * l_out + 1, *rows.shape[1:])
        total = total + jnp.sum(rows * x[l3][:, None], axis=0)
    return total


def _outer(a: jax.Array, b: jax.Array) -> jax.Array:
    """All products [i*j, n, c] of components of [i, n, c] and [j, n, c]."""
    return (a[:, None] * b[None, :]).reshape(-1, *a.shape[1:])


def _matmul(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """Multiply matrix [p, k] with x [k, n, c] along the first axis of x."""
    product = jnp.asarray(matrix, x.dtype) @ x.reshape(x.shape[0], -1)
    return product.reshape(-1, *x.shape[1:])
