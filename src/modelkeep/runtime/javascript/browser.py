"""Programs in a headless browser: a page that a server on loopback gives it asks the server for jobs.

The server knows no path but those that begin with a secret of its own: other users of the machine get nothing.
"""

import http.server
import json
import os
import queue
import secrets
import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from modelkeep.errors import UsageError
from modelkeep.runtime.javascript.packages import browser, modules
from modelkeep.runtime.javascript.session import SECONDS
from modelkeep.runtime.table import Script

_HERE = Path(__file__).parent
_TYPES = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
_SCRIPTS = {
    "tfjs": [f"@tensorflow/tfjs-{one}/dist/tf-{one}.min.js" for one in ("core", "backend-{backend}", "converter")],
    "onnxruntime": ["onnxruntime-web/dist/ort.wasm.min.js"],
    "litert": [],
}
_FLAGS = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--disable-extensions", "--mute-audio",
)  # fmt: skip
"""Without which it asks for hosts, many at a time."""


class Browser:
    """A headless browser, for one artifact; it ends with this object, or when it finds its server gone."""

    def __init__(self, path: Path, script: Script) -> None:
        self._name, self._lock = script.name, threading.Lock()
        self._jobs: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._scripts = [f"modules/{one}".format(backend=script.backend) for one in _SCRIPTS[script.module]]
        self._scripts.append(f"programs/{script.module}.js")
        places = {"programs": _HERE, "modules": modules(script.packages[0]), "artifact": path}
        server = _Server(places, self._jobs, self._answers)
        self.address = server.address
        profile = tempfile.TemporaryDirectory(prefix="modelkeep-browser-")
        rights = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []
        line = [str(browser()), *_FLAGS, *rights, f"--user-data-dir={profile.name}", server.address]
        nowhere = subprocess.DEVNULL
        self._child = subprocess.Popen(line, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
        weakref.finalize(self, _end, self._child, server, self._jobs, profile)

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a job. Raises UsageError."""
        with self._lock:
            self._jobs.put({**job, "scripts": self._scripts if "open" in job else []})
            for _ in range(SECONDS):
                try:
                    return self._answers.get(timeout=1)
                except queue.Empty:
                    if self._child.poll() is not None:
                        raise UsageError(f"{self._name}: the browser ended with {self._child.returncode}") from None
        raise UsageError(f"{self._name}: the browser has not answered in {SECONDS} s")


class _Server(http.server.ThreadingHTTPServer):
    """The page, its libraries, the artifact, and the jobs."""

    daemon_threads = True

    def __init__(self, places: Mapping[str, Path | None], jobs: Any, answers: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.places, self.jobs, self.answers = places, jobs, answers
        self.root = f"/{secrets.token_urlsafe(16)}/"
        self.address = f"http://127.0.0.1:{self.server_address[1]}{self.root}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def found(self, path: str) -> Path | None:
        """The file of a path behind the root, None where there is none within its place."""
        if path == "":
            return _HERE / "page.html"
        kind, _, rest = path.partition("/")
        place = self.places.get(kind)
        if place is None:
            return None
        if place.is_file():
            return place
        file = (place / rest).resolve()
        return file if file.is_relative_to(place.resolve()) and file.is_file() else None


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        root, path = self.server.root, self.path.partition("?")[0]
        if not path.startswith(root):
            self.send_error(404)
        elif path == f"{root}next":
            job = self.server.jobs.get()
            if job is not None:
                self._send(json.dumps(job).encode(), "application/json")
        elif (file := self.server.found(path.removeprefix(root))) is None:
            self.send_error(404)
        else:
            self._send(file.read_bytes(), _TYPES.get(file.suffix, "application/octet-stream"))

    def do_POST(self) -> None:
        if self.path != f"{self.server.root}answer":
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(b"", "text/plain")
        self.server.answers.put(json.loads(body))

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _end(child: "subprocess.Popen[bytes]", server: _Server, jobs: Any, profile: Any) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # with its renderers
    child.wait()
    jobs.put(None)
    server.shutdown()
    server.server_close()
    profile.cleanup()
