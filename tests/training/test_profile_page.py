"""TensorBoard's profile page, in an environment of its own, opens what `--profile_steps` writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv

import folder_of_records
import profiles
import pytest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "toy_command.py")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(SCRIPT)))
FLAGS = ("--method=toy", "--image_size=16", "--load_size=16", "--batch_size=2", "--steps=12", "--steps_per_loop=6",
         "--strategy=cpu", "--sample_every_steps=0", "--log_every_steps=6", "--profile_steps=4,7")  # fmt: skip
# What the pages show: steps and complaints of the overview, the trace viewer's and operation statistics' names, and the
# names in the programs that XLA compiled.
PAGES = """
import json, sys
from xprof.convert.raw_to_tool_data import xspace_to_tool_data, xspace_to_tool_names
path, modules = sys.argv[1], sys.argv[2:]
xspace_to_tool_names([path])  # the page asks first; it unpacks what the graph viewer shows
def raw(name, **options):
    return xspace_to_tool_data([path], name, {"use_saved_result": False, **options})[0]
def page(name):
    return json.loads(raw(name))
def program(module):
    options = {"module_name": module, "type": "long_txt", "show_metadata": 1}
    return raw("graph_viewer", graph_viewer_options=options).decode()
overview = page("overview_page")
found = {
    "steps": [row["c"][0]["v"] for row in overview[1]["rows"]],
    "step times": [row["c"][-1]["v"] for row in overview[1]["rows"]],
    "complaints": [row["c"][1]["v"] for row in overview[-1]["rows"]],
    "events": [event.get("name", "") for event in page("trace_viewer")["traceEvents"]],
    "operations": [row["c"][3]["v"] for row in page("framework_op_stats")[0]["rows"]],
    "programs": [program(module) for module in modules],
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """The Python of an environment with the profile page's package and nothing of ours."""
    folder = tmp_path_factory.mktemp("profiler") / "environment"
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "xprof==2.24.*"], check=True, timeout=1200)
    return python


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["tensorflow", "jax"])
def test_the_profile_page_shows_steps_and_phases(tmp_path, reader, engine):
    if engine == "jax":
        pytest.importorskip("jax", reason="JAX needs Python 3.11")
    data, run_dir = folder_of_records.write(tmp_path / "data"), tmp_path / "run"
    command = [sys.executable, SCRIPT, *FLAGS, f"--engine={engine}", f"--data_dir={data}", f"--run_dir={run_dir}"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=1000)
    (path,) = (run_dir / "plugins" / "profile").glob("*/*.xplane.pb")
    programs = profiles.planes(run_dir).get("/host:metadata")
    names = [m.name for m in programs.event_metadata.values() if "iteration" in m.name] if programs else []
    done = subprocess.run(
        [reader, "-c", PAGES, str(path), *names], capture_output=True, text=True, timeout=500, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["steps"] == [f"train {step}" for step in ((4, 6) if engine == "tensorflow" else (4, 5, 6, 7))]
    assert min(shown["step times"]) > 0
    assert shown["complaints"] == []
    assert set(shown["steps"]) <= set(shown["events"])
    for phase in ("critic", "generator"):
        if engine == "tensorflow":  # CPUs' operations are in the statistics by their names
            begins = "while/body/_1/while/" + phase
            assert [name for name in shown["operations"] if name.startswith(f"{begins}/adam_{phase}/")]
            assert [name for name in shown["operations"] if name.startswith(f"{begins}/generator")]  # forward pass
        else:  # XLA's for CPUs only by their numbers, which the compiled program explains
            assert f"jit(_replica_iteration)/{phase}/" in "".join(shown["programs"])
