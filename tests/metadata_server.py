"""A metadata server of our own on loopback, for tests of the cloud's notices."""

from __future__ import annotations

import contextlib
import http.server
import threading

BASE = "/computeMetadata/v1/instance/"


class Metadata:
    """What a Google Cloud machine's metadata server answers; `values` may change, `asked` counts."""

    def __init__(self):
        self.values = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self.asked = 0
        metadata = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                metadata.asked += 1
                known = self.path.removeprefix(BASE) in metadata.values and self.path.startswith(BASE)
                flavoured = self.headers.get("Metadata-Flavor") == "Google"  # the real one refuses without
                self.send_response(200 if known and flavoured else 404 if flavoured else 403)
                self.end_headers()
                if known and flavoured:
                    self.wfile.write(metadata.values[self.path.removeprefix(BASE)].encode())

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        """Answers nobody any more."""
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def serving(monkeypatch):
    """A `Metadata` that this process takes for Google's."""
    metadata = Metadata()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{metadata.server.server_port}")
    try:
        yield metadata
    finally:
        metadata.close()
