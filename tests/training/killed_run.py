"""Runs `python -m tfaclgan.main` in processes of their own and ends them where it is told to: for the kill tests.

One job a line of standard input: {"argv", "log", "moment", "shadow", "journal"}; one line of output for each, how the
process ended. The processes are forked from one that has imported everything, which saves each of them the import.

A moment is {"stage", "turn", "place", "kind"}: the `turn`-th time that the process is in the stage, at the share
`place` of what that stage did in the undisturbed run. The journal gets a line when that is reached, and one for each
finished save, so that the test knows what was met. Kinds:

    kill            SIGKILL
    term            SIGTERM
    power           SIGKILL; the test then drops what was not synced (`power_loss`)
    power_names     the same, but the names of files survive and only their content is dropped
    full            from here on no file grows beyond `place` of the state's size: the disk is full
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

STAGES = ("start", "compile", "loop", "log", "sample", "evaluate", "save")
_BY_TIME = ("start", "compile", "loop")  # mostly native code; in the others calls of functions are counted


class Moments:
    """Watches the stages of this process; measures them, or ends the process at a moment.

    With no moment the journal gets a line {"stage", "turn", "amount"} for each: seconds, or calls and returns.
    """

    def __init__(self, journal, moment, amounts):
        self._journal, self._moment, self._amounts = journal, moment, amounts
        self._turns = dict.fromkeys(STAGES, 0)
        self._lock = threading.Lock()

    def stage(self, name, run):
        """Calls `run` as a stage."""
        self._turns[name] += 1
        moment = self._moment
        if moment and (moment["stage"], moment["turn"]) == (name, self._turns[name]):
            return self._until(name, run)
        if moment:
            return run()
        return self._measured(name, run)

    def wrap(self, owner, attribute, name):
        """Makes each call of owner.attribute a stage; `name` may depend on how often it was called."""
        function = getattr(owner, attribute)

        def wrapped(*arguments, **options):
            stage = name() if callable(name) else name
            return self.stage(stage, lambda: function(*arguments, **options))

        setattr(owner, attribute, wrapped)

    def note(self, **line):
        full = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, full[1]))  # the journal is not on that disk
        with open(self._journal, "a") as file:
            file.write(json.dumps(line) + "\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, full)

    def _measured(self, name, run):
        count, started = [0], time.perf_counter()

        def counted(*_):
            count[0] += 1

        if name not in _BY_TIME:
            sys.setprofile(counted)
        try:
            return run()
        finally:
            sys.setprofile(None)
            amount = time.perf_counter() - started if name in _BY_TIME else count[0]
            self.note(stage=name, turn=self._turns[name], amount=amount)

    def _until(self, name, run):
        moment, amount = self._moment, self._amounts[name]
        if moment["kind"] == "full":
            self.note(met=name, **moment)
            full = int(moment["place"] * moment["bytes"]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, full)
            return run()
        if name in _BY_TIME:
            thread = threading.Thread(target=lambda: (time.sleep(moment["place"] * amount), self._end(name)))
            thread.start()
            result = run()
            thread.join()  # not later than at the end of the stage
            return result
        left = [1 + int(moment["place"] * amount)]

        def counted(*_):
            left[0] -= 1
            if not left[0]:
                sys.setprofile(None)
                self._end(name)

        sys.setprofile(counted)
        try:
            return run()
        finally:
            sys.setprofile(None)
            if left[0] > 0:  # the stage had less to do than in the undisturbed run
                self._end(name)

    def _end(self, name):
        self.note(met=name, **self._moment)
        os.kill(os.getpid(), signal.SIGTERM if self._moment["kind"] == "term" else signal.SIGKILL)


class Shadow:
    """What of a folder has surely reached the disk: content of files and names in folders as of their last sync."""

    def __init__(self, root, top):
        self._root, self._top, self._held = root, top, []
        for name in ("content", "links", "names"):
            os.makedirs(os.path.join(root, name), exist_ok=True)
        self._sync, self._rmdir = os.fsync, os.rmdir
        os.fsync, os.rmdir = self._fsync, self._forget

    def _fsync(self, descriptor):
        self._sync(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path == self._top or path.startswith(self._top + os.sep):
            status = os.fstat(descriptor)
            if os.path.isdir(path):
                self._held.append(os.dup(descriptor))  # so that no other folder gets this number
                names = {e.name: [e.inode(), e.is_dir()] for e in os.scandir(path)}
                self._put("names", status.st_ino, json.dumps(names).encode())
            else:
                with open(path, "rb") as file:
                    self._put("content", status.st_ino, file.read())
                link = os.path.join(self._root, "links", str(status.st_ino))
                if not os.path.exists(link):
                    os.link(path, link)  # keeps the number as well

    def _forget(self, path, *, dir_fd=None):
        number = os.stat(path, dir_fd=dir_fd).st_ino
        self._rmdir(path, dir_fd=dir_fd)
        if os.path.exists(os.path.join(self._root, "names", str(number))):
            os.remove(os.path.join(self._root, "names", str(number)))

    def _put(self, kind, number, data):
        path = os.path.join(self._root, kind, str(number))
        with open(path + ".new", "wb") as file:
            file.write(data)
        os.replace(path + ".new", path)


def power_loss(top, run_dir, shadow, *, names_survive):
    """Makes of run_dir, a folder in `top`, what is left of it if the machine loses power; then all of it is synced."""

    def read(kind, number):
        path = os.path.join(shadow, kind, str(number))
        return open(path, "rb").read() if os.path.exists(path) else None

    def listing(path):
        if names_survive:
            return {e.name: [e.inode(), e.is_dir()] for e in os.scandir(path)} if os.path.isdir(path) else {}
        return path and json.loads(read("names", path) or b"{}")

    def rebuild(source, target):
        os.makedirs(target)
        for name, (number, is_folder) in listing(source).items():
            path = os.path.join(target, name)
            if is_folder:
                rebuild(os.path.join(source, name) if names_survive else number, path)
            else:
                with open(path, "wb") as file:
                    file.write(read("content", number) or b"")

    name, rebuilt = os.path.basename(run_dir), run_dir + "-after"
    if names_survive:
        if os.path.exists(run_dir):
            rebuild(run_dir, rebuilt)
    else:
        known = listing(os.stat(top).st_ino)
        if name in known:
            rebuild(known[name][0], rebuilt)
    shutil.rmtree(run_dir, ignore_errors=True)
    shutil.rmtree(shadow)
    if os.path.exists(rebuilt):
        os.replace(rebuilt, run_dir)
    everything = Shadow(shadow, top)
    try:
        for folder, _, files in os.walk(top):
            for path in (*(os.path.join(folder, file) for file in files), folder):
                if path.startswith(run_dir) or path == top:
                    descriptor = os.open(path, os.O_RDONLY)
                    os.fsync(descriptor)
                    os.close(descriptor)
    finally:
        os.fsync, os.rmdir = everything._sync, everything._rmdir
        for descriptor in everything._held:
            os.close(descriptor)


def _instrument(moments):
    from tfaclgan.engine.tensorflow import Engine
    from tfaclgan.metrics import evaluate
    from tfaclgan.training import checkpoint, loop

    calls, begun = [0], threading.Event()

    def which():
        calls[0] += 1
        begun.set()
        return "compile" if calls[0] == 1 else "loop"

    moments.wrap(Engine, "train", which)
    moments.wrap(loop._Session, "_sample", "sample")
    moments.wrap(loop._Session, "_evaluate", "evaluate")
    moments.wrap(loop._Session, "_log", "log")
    moments.wrap(checkpoint.Saver, "_write", "save")
    written = checkpoint.Saver._write

    def noted(saver, state, step):
        written(saver, state, step)
        moments.note(saved=step)

    checkpoint.Saver._write = noted
    judge = evaluate.evaluate

    def with_kid(*arguments, **options):  # the best checkpoint goes by KID, whose network would take minutes here
        result = judge(*arguments, **options)
        result["metrics"]["kid"] = result["metrics"]["l1"]
        return result

    evaluate.evaluate = with_kid
    return begun


def _run(job):
    # Through a pipe: what is said stands in no file that a full disk would stop.
    with open(job["log"], "ab") as log:
        output = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log).stdin
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    from tfaclgan import main

    moments = Moments(job["journal"], job["moment"], job["amounts"])
    if job["shadow"]:
        Shadow(job["shadow"], job["top"])
    begun = _instrument(moments)
    if job["moment"] and job["moment"]["stage"] == "start":
        seconds = job["moment"]["place"] * job["amounts"]["start"]

        def end_early():
            begun.wait(seconds)
            moments._end("start")

        threading.Thread(target=end_early).start()
    elif not job["moment"]:
        started = time.perf_counter()
        threading.Thread(
            target=lambda: (
                begun.wait(),
                moments.note(stage="start", turn=1, amount=time.perf_counter() - started),
            ),
            daemon=True,
        ).start()
    return main.main(["main", *job["argv"]])


def serve():
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    from toy import TOY

    from tfaclgan import main, quiet
    from tfaclgan.methods import base

    quiet.import_tensorflow()
    import tfaclgan.engine.strategy
    import tfaclgan.inference.translator
    import tfaclgan.metrics.evaluate
    import tfaclgan.training.loop  # noqa: F401

    assert main.main
    base.names()  # loads the package's own
    base.register(TOY)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = _run(json.loads(line))
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
