"""Common style and helper functions of all figures."""

import io
from collections.abc import Sequence
from typing import Any, Final

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

# Okabe & Ito's colours stay distinct for colour-blind readers.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8F98"
STYLE: Final[dict[Any, Any]] = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5B616B",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E8EB",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.3,
}


class _PlainLog(LogLocator):
    """Ticks at 1, 2 and 5 of each decade; equidistant ticks if the axis spans less than a factor of five."""

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Positions of the ticks from vmin to vmax."""
        short = 0.0 < vmin < vmax < 5.0 * vmin
        return MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(vmin, vmax) if short else super().tick_values(vmin, vmax)


def plain_log(axis: Axis) -> None:
    """Label a logarithmic axis with plain decimal numbers, see `_PlainLog`."""
    axis.set_major_locator(_PlainLog(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def png(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
