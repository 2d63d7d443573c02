"""Writes requirements/{cpu,gpu,tpu}.lock from the bounds in setup.py: `make lock`.

Each lock file holds every package of one accelerator's environment (with demo, metrics, datasets and dev, and on
the CPU jax) with exact versions and hashes, for Python 3.10-3.13 by environment markers. The resolver is uv in its
universal mode. Without --upgrade the pins of an existing lock file stay where the bounds still allow them.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import venv

UV_VERSION = "0.13.9"
OLDEST_PYTHON = "3.10"
LOCKS = ("cpu", "gpu", "tpu")
COMMON_EXTRAS = ("demo", "metrics", "datasets", "dev")
MORE_EXTRAS = {"cpu": ("jax",)}
HERE = pathlib.Path(__file__).resolve().parent
HEADER = """\
# tfaclgan on {name}: every package, exactly as tested; Python 3.10-3.13.
#   pip install --no-deps -r requirements/{name}.lock
# The file is complete; --no-deps makes sure that no second TensorFlow comes with it.
# Made by `make lock` from setup.py; do not edit.
"""


def compile_lock(uv: pathlib.Path, name: str, upgrade: bool) -> str:
    """Resolves lock `name`; returns the lock file's text."""
    target = HERE / f"{name}.lock"
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "lock.txt"
        if target.exists():
            output.write_text(target.read_text())  # uv prefers the pins it finds in its output file
        command = [uv, "pip", "compile", HERE.parent / "setup.py"]
        for extra in (name, *COMMON_EXTRAS, *MORE_EXTRAS.get(name, ())):
            command += ["--extra", extra]
        command += ["--output-file", output, "--python-version", OLDEST_PYTHON]
        command += ["--universal", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
        command += ["--upgrade"] if upgrade else []
        subprocess.run([str(part) for part in command], check=True, cwd=HERE.parent)
        return HEADER.format(name=name) + output.read_text()


def main() -> int:
    """Writes the lock files named on the command line (default: all)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(LOCKS)} (default: all)")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions the bounds allow")
    options = parser.parse_args()
    unknown = set(options.names) - set(LOCKS)
    if unknown:
        parser.error(f"unknown lock file {', '.join(sorted(unknown))}; choose from {', '.join(LOCKS)}")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        programs = pathlib.Path(folder) / ("Scripts" if sys.platform == "win32" else "bin")
        subprocess.run([str(programs / "python"), "-m", "pip", "install", "--quiet", f"uv=={UV_VERSION}"], check=True)
        for name in options.names or LOCKS:
            text = compile_lock(programs / "uv", name, options.upgrade)
            (HERE / f"{name}.lock").write_text(text)
            print(f"requirements/{name}.lock: {len(re.findall(r'^[a-z0-9]', text, re.MULTILINE))} pins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
