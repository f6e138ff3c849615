"""A page in headless Chromium: served on loopback, run, and looked at."""

import http.server
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")

# The flags without which it asks for hosts that are not there, many at a time.
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--window-size=900,900",
)  # fmt: skip


WAITING = '<img src="/until-done" hidden>'
"""Holds a page's load event, and so the browser, until the page has fetched ``/done``."""


class _Server(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *given: Any, done: threading.Event, **options: Any) -> None:
        self._done = done
        super().__init__(*given, **options)

    def do_GET(self) -> None:
        if self.path == "/until-done":
            self._done.wait(60)
            self.send_error(404)
            return
        if self.path == "/done":
            self._done.set()
            self.send_error(404)
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The folder over HTTP; gives its address."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Server, directory=str(folder), done=threading.Event())
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def opened(address: str, screenshot: Path | None = None) -> str:
    """The document of a page once its scripts are done; with a picture of it."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        what = [f"--screenshot={screenshot}"] if screenshot is not None else ["--dump-dom"]
        line = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", *what, address]
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
