"""What a production has found: counts and averages of every replica, as numbers and as text."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from ase.data import chemical_symbols

from bayes_mlff.core import units
from bayes_mlff.production.config import noun
from bayes_mlff.production.setup import Part, Setup
from bayes_mlff.production.state import HostState
from bayes_mlff.production.tally import MOST_SPELLS, Spell, Tally, Watched

FEW: Final = 5
"""Number of spells that the text lists for a replica."""


def facts(setup: Setup, host: HostState) -> dict[str, Any]:
    """Numbers of the summary, in eV, fs, K, GPa and meV/atom/ps; null where a value is not known."""
    watch = setup.watch
    return _known(
        {
            "atoms": len(setup.structure.numbers),
            "replicas": setup.config.replicas,
            "finished": finished(setup, host),
            "threshold_ev": watch.threshold_ev,
            "triggers": [trigger.statistic.name for trigger in watch.triggers] if watch.known else [],
            "parts": {
                part.name: {
                    "ensemble": part.dynamics.ensemble,
                    "timestep_fs": part.dynamics.timestep_fs,
                    "share_above": share_above(setup, host.tallies[index]),
                    "replicas": [_replica(setup, part, host, index, i) for i in range(setup.config.replicas)],
                }
                for index, part in enumerate(setup.parts[: len(host.tallies)])
            },
        }
    )


def finished(setup: Setup, host: HostState) -> bool:
    """Whether all steps of all replicas are done."""
    last = host.part + 1 == len(setup.parts) and host.step >= setup.parts[-1].n_steps
    return bool(last and host.running.all())


def share_above(setup: Setup, tallies: tuple[Tally, ...]) -> float | None:
    """Share of the steps of all replicas with a statistic above its limit; None if no limit is known."""
    steps = sum(each.steps for each in tallies)
    return sum(each.above for each in tallies) / steps if steps and setup.watch.known else None


def _replica(setup: Setup, part: Part, host: HostState, index: int, i: int) -> dict[str, Any]:
    tally, stopped = host.tallies[index][i], host.stopped[i]
    steps, n = tally.steps, len(setup.structure.numbers)
    if stopped is not None and stopped.part != index:
        stopped = None
    mean, square = (x / steps if steps else math.nan for x in tally.temperature)
    dynamics = part.each[i]
    return {
        "replica": i + 1,
        "seed": setup.config.seed + i,
        "thermostat_k": None if dynamics.ensemble == "nve" else dynamics.temperature_k,
        "steps": steps,
        "time_ps": steps * dynamics.timestep_fs / 1000.0,
        "stopped": None if stopped is None else {"step": stopped.step, "kind": stopped.kind, "reason": stopped.reason},
        "temperature_k": mean,
        "temperature_std_k": math.sqrt(max(square - mean * mean, 0.0)) if steps else math.nan,
        "potential_ev": tally.potential / steps + setup.atomic_ev if steps else math.nan,
        "pressure_gpa": tally.pressure / steps if steps else math.nan,
        "volume_a3": tally.volume / steps if steps else math.nan,
        "conserved_drift_mev_atom_ps": 1e3 * tally.drift_ev_ps() / n,
        "sigma_ev": tally.sigma / steps if steps else math.nan,
        "steps_above": tally.above if setup.watch.known else None,
        "share_above": tally.above / steps if steps and setup.watch.known else None,
        "triggers": [_trigger(setup, part, j, each) for j, each in enumerate(tally.watched) if each.steps],
        "spells": [_spell(setup, part, each) for each in tally.spells],
    }


def _trigger(setup: Setup, part: Part, trigger: int, found: Watched) -> dict[str, Any]:
    statistic = setup.watch.triggers[trigger].statistic
    return {
        "name": statistic.name,
        "steps_above": found.above,
        "spells": found.spells,
        "spells_listed": min(found.spells, MOST_SPELLS),
        "largest_ratio": found.ratio,
        "at_fs": found.peak * part.dynamics.timestep_fs,
        "atom": found.place if statistic.of_atoms else None,
    }


def _spell(setup: Setup, part: Part, spell: Spell) -> dict[str, Any]:
    statistic, step_fs = setup.watch.triggers[spell.trigger].statistic, part.dynamics.timestep_fs
    return {
        "trigger": statistic.name,
        "begin_fs": spell.begin * step_fs,
        "end_fs": spell.end * step_fs,
        "largest_ratio": spell.ratio,
        "at_fs": spell.peak * step_fs,
        "atom": spell.place if statistic.of_atoms else None,
    }


def _known(values: Any) -> Any:
    """JSON has no nan."""
    if isinstance(values, Mapping):
        return {key: _known(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_known(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def text(setup: Setup, found: Mapping[str, Any]) -> list[str]:
    """Lines of the summary.

    Args:
      setup: constants of the production.
      found: from `facts`.
    """
    lines = []
    for name, part in found["parts"].items():
        lines.append(f"{noun(name)} ({part['ensemble']}, {part['timestep_fs']:g} fs steps)")
        lines += _table(setup, part)
        lines += [f"  {line}" for line in _uncertainty(setup, part)]
        for each in part["replicas"]:
            if each["stopped"] is not None:
                stopped = each["stopped"]
                lines.append(f"  replica {each['replica']} stopped at step {stopped['step']}: {stopped['reason']}")
    return lines


def _table(setup: Setup, part: Mapping[str, Any]) -> list[str]:
    with_pressure = any(each["pressure_gpa"] is not None for each in part["replicas"])
    head = ["replica", "seed", "ps", "T / K", "± K", "drift / meV/atom/ps", "<σ> / kcal/mol", "above"]
    rows = [head + (["p / GPa", "V / Å³"] if with_pressure else [])]
    for each in part["replicas"]:
        sigma = None if each["sigma_ev"] is None else units.KCAL_MOL_PER_EV * each["sigma_ev"]
        row = [
            f"{each['replica']}",
            f"{each['seed']}",
            f"{each['time_ps']:.4g}",
            _number(each["temperature_k"], ".1f"),
            _number(each["temperature_std_k"], ".1f"),
            _number(each["conserved_drift_mev_atom_ps"], ".3g"),
            _number(sigma, ".3g"),
            _number(each["share_above"], ".2%"),
        ]
        if with_pressure:
            row += [_number(each["pressure_gpa"], ".3f"), _number(each["volume_a3"], ".2f")]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _uncertainty(setup: Setup, part: Mapping[str, Any]) -> list[str]:
    """Where and when statistics were above their limits."""
    if part["share_above"] is None:
        return ["no limit of σ is known: nothing was watched but the guards"]
    lines = [f"{part['share_above']:.2%} of the time above a limit of σ"]
    for each in part["replicas"]:
        for found in each["triggers"]:
            where = "" if found["atom"] is None else f" at {_atom(setup, found['atom'])}"
            lines.append(
                f"replica {each['replica']}, {found['name']}: largest σ {found['largest_ratio']:.3g} times its limit, "
                f"after {found['at_fs'] / 1000.0:.4g} ps{where}; above in {found['steps_above']} steps "
                f"(spells: {found['spells']})"
            )
        longest = sorted(each["spells"], key=lambda spell: spell["begin_fs"] - spell["end_fs"])[:FEW]
        if longest:
            said = ", ".join(f"{s['begin_fs'] / 1e3:.4g} to {s['end_fs'] / 1e3:.4g} ps" for s in longest)
            lines.append(f"replica {each['replica']}: longest spells {said}")
    return lines


def _atom(setup: Setup, index: int) -> str:
    return f"{chemical_symbols[int(np.asarray(setup.structure.numbers)[index])]} {index}"
