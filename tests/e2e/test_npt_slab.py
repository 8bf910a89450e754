"""A slab at constant pressure: refused where its vacuum would be strained, and run in its plane alone."""

import ase.io
import numpy as np
import pytest
from ase.build import fcc111
from rich.console import Console

from bayes_mlff.cli import runner
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.structure import from_ase
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.models import registry
from bayes_mlff.otf import config, loop
from bayes_mlff.otf.problem import prepare
from bayes_mlff.testing.tiny import tiny_nequip
from tests.support.tiny_runs import NPT as RAW

COPPER = tiny_nequip((29,), r_max=3.4, average_neighbors=12.0, energy_scales=(0.02,))


def slab():
    atoms = fcc111("Cu", (2, 1, 3), a=3.75, vacuum=6.0, orthogonal=False)
    atoms.pbc = True
    return atoms


def settings(tmp_path, free=None, **dynamics):
    ase.io.write(tmp_path / "slab.vasp", slab())
    registry.save(registry.initialize(COPPER, 0), tmp_path / "model.safetensors", {})
    barostat = {"time_fs": 50.0} | ({} if free is None else {"free": free})
    changed = RAW["dynamics"] | {"schedule": [], "duration_ps": 0.016, "barostat": barostat} | dynamics
    return RAW | {"structure": "slab.vasp", "model": "model.safetensors", "dynamics": changed}


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_vacuum_is_refused_before_anything_is_paid_for(command, tmp_path, monkeypatch):
    def pays(*_):
        raise AssertionError("the engine was made")

    monkeypatch.setattr(runner, "make_engine", pays)
    parsed, console = config.parse(settings(tmp_path)), Console(quiet=True)
    start = {
        "check": lambda: runner.check(parsed, base=tmp_path, console=console, label=True),
        "run": lambda: runner.run(parsed, tmp_path / "run", base=tmp_path, console=console),
    }[command]
    with pytest.raises(ConfigError, match=r"\[a, b\].*along c") as caught:
        start()
    assert caught.value.key == "dynamics.barostat.free"
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_slab_in_its_plane_keeps_its_vacuum_bit_for_bit(open_session, tmp_path):
    parsed = config.parse(settings(tmp_path, ["b", "a"]))
    structure = from_ase(ase.io.read(tmp_path / "slab.vasp"))
    slab_problem = prepare(parsed, structure, registry.initialize(COPPER, 0))
    session = open_session(tmp_path / "run", make_engine(parsed.engine), slab_problem)
    final = loop.Session.finish(session, session.resume())
    held = structure.cell[2].astype(np.float32)
    np.testing.assert_array_equal(np.asarray(final.device.md.cell)[2], held)
    frames = ase.io.read(tmp_path / "run" / "trajectory.extxyz", index=":")
    assert len(frames) == 3 and len({frame.get_volume() for frame in frames}) == 3
    for frame in frames:
        np.testing.assert_array_equal(frame.cell.array[2].astype(np.float32), held)
        assert not frame.cell.array[:2, 2].any()
