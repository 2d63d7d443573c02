"""Starts one process of a service that makes batches for training on other hosts (docs/data.md).

    python data_tools/data_service.py --role=dispatcher --port=5050
    python data_tools/data_service.py --role=worker --dispatcher=grpc://10.0.0.2:5050
    python -m tfaclgan.main --data_service=grpc://10.0.0.2:5050 ...

Runs until SIGTERM or Ctrl-C. Exit status 0: stopped so; 2: what is wrong, in one line on stderr.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a checkout that is not installed
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # it decodes and augments

from absl import app, flags

from tfaclgan.errors import UserError, one_line, run_command

FLAGS = flags.FLAGS

flags.DEFINE_enum("role", None, ("dispatcher", "worker"), "One dispatcher, any number of workers.")
flags.DEFINE_integer("port", 0, "Port to listen on; 0: a free one, which is printed.", lower_bound=0, upper_bound=65535)
flags.DEFINE_string("dispatcher", "", "grpc://HOST:PORT of the dispatcher, for a worker.")
flags.DEFINE_string(
    "address", "", "Name or address under which training hosts reach this worker; empty: the one the dispatcher sees."
)


def main(arguments: list[str]) -> None:
    """Runs the process that the flags name."""

    def command() -> None:
        if len(arguments) > 1 or not FLAGS.role:
            raise UserError("--role=dispatcher or --role=worker is needed, and nothing but flags; --help lists them")
        if (FLAGS.role == "worker") != bool(FLAGS.dispatcher):
            raise UserError("--dispatcher=grpc://HOST:PORT belongs to --role=worker, and to no other role")
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        server = _dispatcher() if FLAGS.role == "dispatcher" else _worker()
        while not stop.wait(1):  # a signal that comes just before the wait does not end it
            pass
        del server

    sys.exit(run_command(command, "data_service"))


def _dispatcher() -> Any:
    import tensorflow as tf

    service = tf.data.experimental.service
    server = _started(lambda: service.DispatchServer(service.DispatcherConfig(port=FLAGS.port)))
    port = server.target.rpartition(":")[2]
    print(
        f"dispatcher: port {port}; now start workers with --role=worker --dispatcher=grpc://{socket.gethostname()}:{port}",
        flush=True,
    )
    return server


def _worker() -> Any:
    import tensorflow as tf

    from tfaclgan.data.service import check

    host, port = check(FLAGS.dispatcher, name="--dispatcher")
    address = FLAGS.address or _own_address(host, port)
    service = tf.data.experimental.service
    config = service.WorkerConfig(
        dispatcher_address=f"{host}:{port}", worker_address=f"{address}:%port%", port=FLAGS.port
    )
    server = _started(lambda: service.WorkerServer(config))
    print(f"worker: {server._address}, for {FLAGS.dispatcher}", flush=True)
    return server


def _started(make: Any) -> Any:
    import tensorflow as tf

    try:
        return make()
    except (tf.errors.OpError, RuntimeError) as error:
        raise UserError(
            f"--port={FLAGS.port}: cannot listen there ({one_line(error)}); another process may, take another port"
        ) from error


def _own_address(host: str, port: int) -> str:
    """This machine's address on the way to the dispatcher."""
    with socket.create_connection((host.strip("[]"), port), timeout=10) as connection:
        address = connection.getsockname()[0]
    return f"[{address}]" if ":" in address else address


if __name__ == "__main__":
    app.run(main)
