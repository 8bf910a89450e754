"""One engine that several processes use together."""

from collections.abc import Callable

from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import GEOMETRY, Structure
from bayes_mlff.engines.engine import Engine, EngineBase, EngineResult, Settled
from bayes_mlff.parallel.hosts import first, shared


class SharedEngine(EngineBase):
    """Runs the engine in the first process and returns its results in all; all must call it together."""

    def __init__(self, make: Callable[[], Engine]):
        """Start the engine, in the first process only."""
        self._engine: Engine | None = None

        def start() -> tuple[str, str]:
            self._engine = make()
            return self._engine.settings_hash, self._engine.description

        self._hash, self._described = shared(start)

    @property
    def settings_hash(self) -> str:
        """See `Engine.settings_hash`."""
        return self._hash

    @property
    def description(self) -> str:
        """See `Engine.description`."""
        return self._described

    @property
    def own(self) -> Engine:
        """The engine itself; exists only in the first process."""
        assert self._engine is not None
        return self._engine

    def check(self, structure: Structure) -> None:
        """See `Engine.check`."""
        shared(lambda: self.own.check(structure))

    def assumptions(self, structure: Structure) -> tuple[str, ...]:
        """See `Engine.assumptions`."""
        return tuple(shared(lambda: self.own.assumptions(structure)))

    def label(self, structure: Structure) -> EngineResult:
        """See `Engine.label`."""
        result = shared(lambda: self.own.label(structure))
        if first():
            return result
        label, evaluated, converged, seconds, attempts, diagnostics, settled = result
        geometry = structure._replace(**dict(zip(GEOMETRY, evaluated[: len(GEOMETRY)], strict=True)))
        return EngineResult(
            Label(*label), geometry, converged, seconds, attempts, tuple(diagnostics), Settled(*settled)
        )

    def save_state(self) -> bytes | None:
        """See `Engine.save_state`; None in all processes except the first."""
        return self.own.save_state() if first() else None

    def restore_state(self, state: bytes | None) -> None:
        """See `Engine.restore_state`."""
        if first():
            self.own.restore_state(state)

    def close(self) -> None:
        """See `Engine.close`."""
        if self._engine is not None:
            self._engine.close()
