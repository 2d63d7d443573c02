"""Makes or updates a virtual environment from a lock file, with tfaclgan in it as editable: `make environment`.

    python3 requirements/make_environment.py .venv requirements/cpu.lock

Standard library only, and readable by Pythons too old for tfaclgan, which then hear so. Nothing is done when the
environment already holds exactly this lock file and this setup.py.
"""

import hashlib
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
OLDEST, BEYOND = (3, 10), (3, 14)


def fail(message: str) -> int:
    """Prints one line; returns the exit code of a user's mistake."""
    print(f"make_environment: error: {message}", file=sys.stderr)
    return 2


def fingerprint(lock: pathlib.Path) -> str:
    """What an environment depends on: the lock file, setup.py, the interpreter."""
    digest = hashlib.sha256(f"{sys.version} {sys.prefix}".encode())
    for path in (lock, HERE.parent / "setup.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def compile_all(python: pathlib.Path, folder: pathlib.Path) -> None:
    """Bytecode of every package, by all cores (pip would take one).

    Where PYTHONDONTWRITEBYTECODE is set, as in many containers, nothing is kept of what an import compiles: each start
    would compile TensorFlow again. Packages may hold files of other Pythons; what cannot be compiled is passed over.
    """
    subprocess.run([str(python), "-W", "ignore", "-m", "compileall", "-qq", "-j", "0", str(folder)])


def main(arguments: "list[str]") -> int:
    """Makes the environment; exit code 2 with one line if this Python or the arguments cannot do it."""
    if len(arguments) != 2:
        return fail("two arguments are wanted: the environment's folder and a lock file")
    folder, lock = (pathlib.Path(argument) for argument in arguments)
    if not OLDEST <= sys.version_info[:2] < BEYOND:
        return fail(
            f"{sys.executable} is Python {sys.version.split()[0]}, but 3.10 to 3.13 is needed; "
            "name one, e.g. `make PYTHON=python3.12 quickstart`"
        )
    if not lock.is_file():
        return fail(f"{lock}: no such lock file; name one of requirements/*.lock")
    stamp, wanted = folder / "installed", fingerprint(lock)
    if stamp.is_file() and stamp.read_text().strip() == wanted:
        stamp.touch()
        return 0
    try:
        import ensurepip  # noqa: F401 (Debian ships Python without it)
        import venv
    except ImportError:
        return fail(f"{sys.executable} lacks venv or ensurepip; install them (Debian: apt-get install python3-venv)")
    if folder.exists() and not (folder / "pyvenv.cfg").is_file():
        return fail(f"{folder} is there and is no virtual environment; move it away")
    print(f"making {folder} from {lock} (some 400 MB are downloaded the first time) ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    steps = ([*pip, "--no-compile", "-r", str(lock)], [*pip, "--no-build-isolation", "-e", str(HERE.parent)])
    for step in steps:
        if subprocess.run(step).returncode:
            return fail(f"`{' '.join(step)}` failed, see above; with the network or the disk mended, run make again")
    compile_all(python, folder)
    stamp.write_text(wanted + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
