"""Import fairchem-core 1.10.0 beside a present PyTorch: its names of torch_scatter and torch_sparse in plain PyTorch.

fairchem imports four names of these packages, which are compiled for one release of PyTorch each. EquiformerV2 itself
calls none of them.
"""

from __future__ import annotations

import sys
import types
from typing import Any

REDUCTIONS = {"sum": "sum", "add": "sum", "mean": "mean", "max": "amax", "min": "amin"}
"""Names of torch_scatter and of `torch.scatter_reduce`."""


def install() -> None:
    """Put modules of these names into the table of modules, unless the packages are installed."""
    try:
        import torch_scatter  # noqa: F401  # pyright: ignore[reportMissingImports]
        import torch_sparse  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        utils = types.ModuleType("torch_scatter.utils")
        utils.broadcast = _broadcast  # type: ignore[attr-defined]
        scatter = types.ModuleType("torch_scatter")
        scatter.scatter, scatter.segment_coo, scatter.segment_csr = _scatter, _scatter, _segment_csr  # type: ignore[attr-defined]
        scatter.utils = utils  # type: ignore[attr-defined]
        sparse = types.ModuleType("torch_sparse")
        sparse.SparseTensor = type("SparseTensor", (), {})  # type: ignore[attr-defined]
        sys.modules |= {"torch_scatter": scatter, "torch_scatter.utils": utils, "torch_sparse": sparse}


def _broadcast(index: Any, values: Any, dim: int) -> Any:
    """The index with the shape of the values; it belongs to one axis of them."""
    shape = [1] * values.dim()
    shape[dim] = -1
    return index.view(shape).expand_as(values)


def _scatter(values: Any, index: Any, dim: int = 0, dim_size: int | None = None, reduce: str = "sum") -> Any:
    """Reduce values of the same index."""
    import torch

    size = list(values.shape)
    size[dim] = int(index.max()) + 1 if dim_size is None else dim_size
    full = _broadcast(index, values, dim)
    return torch.zeros(size, dtype=values.dtype).scatter_reduce(
        dim, full, values, REDUCTIONS[reduce], include_self=False
    )


def _segment_csr(values: Any, pointers: Any, reduce: str = "sum") -> Any:
    """Reduce runs of values."""
    import torch

    count = len(pointers) - 1
    index = torch.repeat_interleave(torch.arange(count), pointers[1:] - pointers[:-1])
    return _scatter(values, index, 0, count, reduce)
