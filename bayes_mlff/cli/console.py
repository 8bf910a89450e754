"""What a user sees while a run works: one line for every label, and a live line for the dynamics."""

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.readings import ENERGY, Reading
from bayes_mlff.otf.config import RunConfig


class ConsoleObserver:
    """Prints labels and updates, and keeps a live line with speed and σ; usable as a context manager."""

    def __init__(self, console: Console, config: RunConfig):
        self._console, self._config = console, config
        self._live = Live(Text(""), console=console, refresh_per_second=4, transient=True)
        self._step = 0

    def __enter__(self) -> "ConsoleObserver":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def working(self, what: str) -> None:
        """Show on the live line what is being waited for."""
        self._live.update(Text(f"  {what} ..."))

    def chunk(self, *, step: int, steps: int, seconds: float, readings: tuple[Reading, ...]) -> None:
        """Show time, speed and what the triggers found against their limits."""
        self._step = step
        total = self._config.dynamics.duration_ps
        line = (
            f"  {step * self._config.dynamics.timestep_fs / 1000.0:7.3f} of {total:g} ps   "
            f"{steps / max(seconds, 1e-9):6.0f} MD steps/s   " + ", ".join(map(_shown, readings))
        )
        self._live.update(Text(line))
        if not self._console.is_terminal and steps == self._config.dynamics.chunk_steps:
            self.say(line)

    def label(self, *, step: int, reason: str, error_ev: float | None, sigma_ev: float | None, seconds: float) -> None:
        """Print the label with the error that the model made there."""
        time_ps = step * self._config.dynamics.timestep_fs / 1000.0
        line = f"  {time_ps:7.3f} ps  label ({reason}, {seconds:.1f} s)"
        if error_ev is not None and sigma_ev is not None:
            line += f"  error {error_ev * KCAL_MOL_PER_EV:+.3f} kcal/mol  σ {sigma_ev * KCAL_MOL_PER_EV:.3f} kcal/mol"
        self.say(line)
        self.working("continuing the chains")

    def notice(self, *, step: int, text: str) -> None:
        """Print the sentence."""
        self.say(f"  {step * self._config.dynamics.timestep_fs / 1000.0:7.3f} ps  {text}")

    def update(self, *, step: int, labels: int, rounds: int, seconds: float, force_error_ev_a: float | None) -> None:
        """Print the size of the training set and the cost of the update."""
        took = f"{seconds:.1f} s" if rounds == 1 else f"{rounds} rounds, {seconds:.1f} s"
        line = f"             chains continued on {labels} label{'s' if labels > 1 else ''} ({took})"
        if force_error_ev_a is not None:
            line += f"  force RMSE before {force_error_ev_a * KCAL_MOL_PER_EV:.2f} kcal/mol/Å"
        self.say(line)
        self.working("molecular dynamics")


def _shown(reading: Reading) -> str:
    value, limit, unit = reading.shown()
    name = "σ" if reading.name == ENERGY else f"σ ({reading.name})"
    return f"{name} {value:.3f} of {limit:.3f} {unit} allowed"
