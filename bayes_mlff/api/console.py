"""Terminal output of a run: one line for every label, and a live line for the dynamics."""

from rich.console import Console
from rich.text import Text

from bayes_mlff.api.heartbeat import EVERY_S
from bayes_mlff.api.live_line import LiveLine
from bayes_mlff.core.units import KCAL_MOL_PER_EV
from bayes_mlff.data.readings import ENERGY, SHOWN, Reading
from bayes_mlff.otf.config import RunConfig


class ConsoleObserver(LiveLine):
    """Prints labels, updates and the present work; a context manager.

    On a terminal a live line shows the present work; elsewhere a line is printed if nothing else was printed for a
    quarter of a minute.

    Args:
      console: console to print to.
      config: configuration of the run.
      every_s: longest time without output if there is no terminal, s.
    """

    def __init__(self, console: Console, config: RunConfig, *, every_s: float = EVERY_S):
        super().__init__(console, every_s=every_s)
        self._config = config
        self._units = {ENERGY: SHOWN["eV"]} | {trigger.name: trigger.shown_unit for trigger in config.triggers}
        self._updates = 0

    def chunk(self, *, step: int, steps: int, seconds: float, readings: tuple[Reading, ...]) -> None:
        """Show simulated time, speed and the triggers' statistics with their limits."""
        time_ps, total = step * self._config.dynamics.timestep_fs / 1000.0, self._config.dynamics.duration_ps
        line = f"  {time_ps:7.3f} of {total:g} ps   {steps / max(seconds, 1e-9):6.0f} MD steps/s   " + ", ".join(
            map(self._reading, readings)
        )
        self.working(f"molecular dynamics after {time_ps:.3f} of {total:g} ps")
        self._line = Text(line)
        if not self._console.is_terminal and steps == self._config.dynamics.chunk_steps:
            self.say(line)

    def label(self, *, step: int, reason: str, error_ev: float | None, sigma_ev: float | None, seconds: float) -> None:
        """Print the label with the error of the model."""
        time_ps = step * self._config.dynamics.timestep_fs / 1000.0
        line = f"  {time_ps:7.3f} ps  label ({reason}, {seconds:.1f} s)"
        if error_ev is not None and sigma_ev is not None:
            line += f"  error {error_ev * KCAL_MOL_PER_EV:+.3f} kcal/mol  σ {sigma_ev * KCAL_MOL_PER_EV:.3f} kcal/mol"
        self.say(line)
        self.working("learning" if self._updates else "compiling and learning")

    def notice(self, *, step: int, text: str) -> None:
        """Print a message with the simulated time."""
        self.say(f"  {step * self._config.dynamics.timestep_fs / 1000.0:7.3f} ps  {text}")

    def update(self, *, step: int, labels: int, rounds: int, seconds: float, force_error_ev_a: float | None) -> None:
        """Print the number of labels and the time of the update."""
        took = f"{seconds:.1f} s" if rounds == 1 else f"{rounds} rounds, {seconds:.1f} s"
        line = f"             learnt {labels} label{'s' if labels > 1 else ''} ({took})"
        if force_error_ev_a is not None:
            line += f"  force RMSE before {force_error_ev_a * KCAL_MOL_PER_EV:.2f} kcal/mol/Å"
        self.say(line)
        self.working("molecular dynamics" if self._updates else "compiling and running molecular dynamics")
        self._updates += 1

    def _reading(self, reading: Reading) -> str:
        unit, factor = self._units[reading.name]
        name = "σ" if reading.name == ENERGY else f"σ ({reading.name})"
        return f"{name} {factor * reading.value:.3f} of {factor * reading.limit:.3f} {unit} allowed"
