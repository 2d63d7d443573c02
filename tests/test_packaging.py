import importlib.metadata
import importlib.util
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import tfaclgan

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOCKS = ("cpu", "gpu", "tpu")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
COMMON_EXTRAS = ("demo", "metrics", "datasets", "dev")
MORE_EXTRAS = {"cpu": ("jax",)}
SHIPS_TENSORFLOW = {
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-tpu",
    "tensorflow-gpu",
    "tensorflow-intel",
    "tf-nightly",
}
BUILD = {"cpu": "tensorflow-cpu", "gpu": "tensorflow", "tpu": "tensorflow-tpu"}


@pytest.fixture(scope="module")
def arguments():
    """What setup.py hands to setuptools."""
    import setuptools

    caught = {}
    original = setuptools.setup
    setuptools.setup = lambda **arguments: caught.update(arguments)
    try:
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = original
    return caught


def environment(python):
    return {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "extra": "",
    }


def read_lock(name):
    """[(Requirement, number of hashes)] of a lock file."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    entries = re.split(r"\n(?=[a-zA-Z])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    return [
        (Requirement(entry.split("\\\n")[0].strip()), len(re.findall(r"--hash=sha256:[0-9a-f]{64}", entry)))
        for entry in entries
    ]


def pins(name, python):
    """{distribution: version} that lock `name` installs on a Python."""
    found = {}
    for requirement, _ in read_lock(name):
        if requirement.marker is None or requirement.marker.evaluate(environment(python)):
            distribution = canonicalize_name(requirement.name)
            assert distribution not in found, f"{distribution} twice on Python {python}"
            found[distribution] = str(requirement.specifier).removeprefix("==")
    return found


def wanted(arguments, name, python):
    names = (name, *COMMON_EXTRAS, *MORE_EXTRAS.get(name, ()))
    extras = [bound for extra in names for bound in arguments["extras_require"][extra]]
    bounds = [Requirement(bound) for bound in [*arguments["install_requires"], *extras]]
    return [bound for bound in bounds if bound.marker is None or bound.marker.evaluate(environment(python))]


def test_version_is_read_without_importing(arguments):
    assert arguments["version"] == tfaclgan.__version__


def test_every_package_is_shipped(arguments):
    folders = {path.parent for path in (ROOT / "tfaclgan").rglob("*.py")}
    assert set(arguments["packages"]) == {".".join(folder.relative_to(ROOT).parts) for folder in folders}


def test_supported_pythons_are_those_of_the_lock_files(arguments):
    from packaging.specifiers import SpecifierSet

    supported = SpecifierSet(arguments["python_requires"])
    assert all(f"{python}.0" in supported for python in PYTHONS)
    assert not any(version in supported for version in ("3.9.18", "3.14.0"))


def test_no_extra_has_an_underscore(arguments):
    """pip before 23.3 does not find it: built metadata spells it with a hyphen."""
    assert not [name for name in arguments["extras_require"] if "_" in name]


def test_only_the_extra_of_a_device_brings_a_tensorflow(arguments):
    bringing = {
        extra
        for extra, bounds in arguments["extras_require"].items()
        if any(Requirement(bound).name in SHIPS_TENSORFLOW for bound in bounds)
    }
    assert bringing == set(LOCKS)
    assert not any(Requirement(bound).name in SHIPS_TENSORFLOW for bound in arguments["install_requires"])


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_is_exact_and_hashed(name):
    entries = read_lock(name)
    assert len(entries) > 80
    for requirement, hashes in entries:
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert hashes >= 1, requirement


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_holds_one_tensorflow(name, python):
    found = pins(name, python)
    assert SHIPS_TENSORFLOW & set(found) == {BUILD[name]}
    # tensorflow-hub from 0.16 on requires tf-keras, and tf-keras requires `tensorflow`.
    assert "tf-keras" not in found
    assert Version(found["tensorflow-hub"]) < Version("0.16")
    assert found[BUILD[name]] == ("2.20.0" if name == "tpu" else "2.21.0")


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", LOCKS)
def test_every_bound_of_setup_is_met(arguments, name, python):
    found = pins(name, python)
    for requirement in wanted(arguments, name, python):
        version = found[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} but {version}"


@pytest.mark.parametrize("python", PYTHONS)
def test_libtpu_is_one_that_tensorflow_2_20_can_load(python):
    # 0.0.17 and 0.0.30 load; 0.0.34, 0.0.37, 0.0.40 and 0.0.52 abort the process.
    assert Version("0.0.17") <= Version(pins("tpu", python)["libtpu"]) <= Version("0.0.30")


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_is_closed_under_what_its_packages_require(name):
    """Checked against the metadata of the packages installed here, at the locked version."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = pins(name, python)
    checked = 0
    for distribution in importlib.metadata.distributions():
        if found.get(canonicalize_name(distribution.name)) != distribution.version:
            continue
        checked += 1
        for text in distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(environment(python)):
                version = found.get(canonicalize_name(requirement.name))
                assert version, f"{distribution.name} requires {requirement.name}"
                assert requirement.specifier.contains(version, prereleases=True), f"{distribution.name}: {text}"
    assert checked > 60


@pytest.fixture(scope="module")
def make_environment():
    spec = importlib.util.spec_from_file_location("make_environment", ROOT / "requirements" / "make_environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_environment_that_is_up_to_date_is_left_alone(make_environment, tmp_path, monkeypatch):
    lock = tmp_path / "cpu.lock"
    lock.write_text("a==1\n")
    folder = tmp_path / "environment"
    folder.mkdir()
    (folder / "installed").write_text(make_environment.fingerprint(lock) + "\n")
    monkeypatch.setattr(make_environment.subprocess, "run", lambda *_: pytest.fail("something was installed"))
    assert make_environment.main([str(folder), str(lock)]) == 0
    # With another lock file it is not: here it stops at a folder that is no environment.
    lock.write_text("a==2\n")
    assert make_environment.main([str(folder), str(lock)]) == 2
    assert (folder / "installed").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "two arguments"),
        (["environment", "missing.lock"], "missing.lock: no such lock file"),
        (["environment", "present.lock"], "is no virtual environment"),
    ],
)
def test_what_cannot_become_an_environment_is_told_in_one_line(
    make_environment, tmp_path, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "present.lock").write_text("")
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "mine.txt").write_text("keep me")
    assert make_environment.main(arguments) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert (tmp_path / "environment" / "mine.txt").exists()


@pytest.mark.parametrize("version", [(3, 9, 18, "final", 0), (3, 14, 0, "final", 0)])
def test_an_unsupported_python_is_told_in_one_line(make_environment, monkeypatch, capsys, version):
    monkeypatch.setattr(make_environment.sys, "version_info", version)
    assert make_environment.main(["environment", "cpu.lock"]) == 2
    printed = capsys.readouterr().err
    assert "3.10 to 3.13 is needed" in printed
    assert len(printed.splitlines()) == 1


def test_a_failed_installation_leaves_no_stamp(make_environment, tmp_path, monkeypatch, capsys):
    lock = tmp_path / "cpu.lock"
    lock.write_text("")
    monkeypatch.setattr(make_environment.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 1))
    monkeypatch.setattr("venv.create", lambda folder, with_pip: folder.mkdir())
    assert make_environment.main([str(tmp_path / "environment"), str(lock)]) == 2
    assert not (tmp_path / "environment" / "installed").exists()
    assert "failed" in capsys.readouterr().err


def test_bytecode_is_kept_where_imports_keep_none(make_environment, tmp_path, monkeypatch, capfd):
    """Containers often set PYTHONDONTWRITEBYTECODE, and every start compiled TensorFlow's modules again."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "sound.py").write_text("x = 1\n")
    (tmp_path / "package" / "of_another_python.py").write_text("print 1\n")
    make_environment.compile_all(pathlib.Path(sys.executable), tmp_path)
    assert [path.name.split(".")[0] for path in tmp_path.rglob("*.pyc")] == ["sound"]
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_tests_of_a_group_stay_with_one_worker(tmp_path):
    """`make test` shares engines by it; with pytest 9.2, xdist 3.8 spread them over both workers and said nothing."""
    (tmp_path / "test_groups.py").write_text(
        "import os, pathlib, time\n"
        "import pytest\n"
        "@pytest.fixture(scope='module', params=[pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in 'abc'])\n"
        "def shared(request):\n"
        "    pathlib.Path(f'{request.param}-{os.getpid()}').touch()\n"
        "@pytest.mark.parametrize('number', range(4))\n"
        "def test_one(shared, number):\n"
        "    time.sleep(0.05)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert sorted(path.name.split("-")[0] for path in tmp_path.glob("[abc]-*")) == ["a", "b", "c"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("quickstart", "-m tfaclgan.quickstart"),
        ("test", "-m pytest"),
        ("test-all", "-m pytest"),
        ("bench", "benchmarks/"),
        ("lint", "ruff check"),
        ("lock", "requirements/lock.py"),
        ("clean", "rm -rf .venv"),
    ],
)
def test_make_knows_the_documented_targets(target, command):
    shown = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
    assert command in shown.stdout


def test_ci_entry_point_is_executable_bash():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_no_public_function_lacks_types_or_docstring():
    """What `make lint` asks of signatures, here too, so that it holds whoever runs what."""
    rules = "ANN001,ANN201,ANN202,ANN205,D100,D103"
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", rules, "tfaclgan", "data_tools"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
