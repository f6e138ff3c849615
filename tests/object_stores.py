"""Object stores on this machine: SeaweedFS, with its objects on a disk, moto, which is Python, and Azure's emulator."""

import base64
import contextlib
import email.utils
import hashlib
import hmac
import http.client
import http.server
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest

BUCKET = "bkt-one"
WEED = Path(sys.executable).with_name("weed")
AZURITE = Path(sys.executable).parents[1] / "node_modules" / ".bin" / "azurite-blob"
_ACCESS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_REGION": "us-east-1"}


@contextlib.contextmanager
def seaweed(folder: Path) -> Iterator[dict[str, str]]:
    """SeaweedFS with a bucket, its data in ``folder``; gives the variables by which it is found."""
    ports = dict(zip(("s3", "master", "volume", "filer", "admin"), _free_ports(5), strict=True))
    command = [str(WEED), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false"]
    command += ["-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    command += [*(f"-{name}.port={port}" for name, port in ports.items())]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **_ACCESS, "S3_BUCKET": BUCKET}, stdout=log, stderr=subprocess.STDOUT
        )
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    try:
        _wait(endpoint, process)
        _make_bucket(endpoint)
        yield {**_ACCESS, "AWS_ENDPOINT_URL": endpoint}
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def moto() -> Iterator[dict[str, str]]:
    """moto's server in a thread of this process, with a bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT"), timeout=10).close()
        yield {**_ACCESS, "AWS_ENDPOINT_URL": endpoint}
    finally:
        server.stop()


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[dict[str, str]]:
    """Microsoft's emulator of Azure's blobs, in memory, with a container."""
    (port,) = _free_ports(1)
    command = [str(AZURITE), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
    command += ["--skipApiVersionCheck", "--disableTelemetry"]
    with (folder / "azurite.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _wait(endpoint, process)
        _make_container(endpoint)
        yield {
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": endpoint,
            "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": _ACCOUNT_KEY,
        }
    finally:
        process.kill()
        process.wait()


_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""What Microsoft documents for every Azurite."""


def _make_container(endpoint: str) -> None:
    """By a request that is signed with the key of the account; obstore makes objects only."""
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2023-11-03"}
    named = [f"{name}:{value}" for name, value in headers.items()]
    text = "\n".join(["PUT", *[""] * 11, *named, f"/{_ACCOUNT}/{_ACCOUNT}/{BUCKET}", "restype:container"])
    signature = hmac.new(base64.b64decode(_ACCOUNT_KEY), text.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(signature).decode()}"
    url = f"{endpoint}/{_ACCOUNT}/{BUCKET}?restype=container"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=10).close()


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has, below the range from which the kernel picks; weed's gRPC takes each plus 10,000."""
    found: list[int] = []
    start = 11_000 + os.getpid() % 900 * 10
    for port in range(start, 22_000):
        if len(found) == count:
            break
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            found.append(port)
    return found


def _make_bucket(endpoint: str) -> None:
    """weed makes its bucket some time after it answers, or with the first object."""
    client = obstore.store.S3Store(
        BUCKET, endpoint=endpoint, access_key_id="test", secret_access_key="testsecret", region="us-east-1",
        client_options={"allow_http": True},
    )  # fmt: skip
    obstore.put(client, "first", b"")


def _wait(endpoint: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"no server started; see {process.args!r}")


def at(server: dict[str, str], monkeypatch: pytest.MonkeyPatch, scheme: str = "s3") -> str:
    """A new place on a server, which the variables of the environment name."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return f"{scheme}://{BUCKET}/{secrets.token_hex(8)}/keep"


class Proxy(http.server.ThreadingHTTPServer):
    """Hands requests on to a server, and does to them what ``rule(method, path)`` says."""

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = endpoint
        self.rule: Any = lambda method, path: ""
        self.seen: list[tuple[str, str]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def lose_one_answer(self, key: str) -> list[str]:
        """Of the first write of a key: it is done, and nobody hears of it. Returns a list that has its path then."""
        lost: list[str] = []

        def rule(method: str, path: str) -> str:
            if method == "PUT" and path.endswith(f"/{key}") and not lost:
                lost.append(path)
                return "lost"
            return ""

        self.rule = rule
        return lost


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path))
        rule = self.server.rule(self.command, self.path)
        headers = dict(self.headers.items())
        if rule == "cut":
            self.close_connection = True
            return
        if rule == "unconditional":
            headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
        connection = http.client.HTTPConnection(self.server.endpoint.removeprefix("http://"), timeout=30)
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if rule == "lost":  # it was done, and nobody hears of it
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = answer.headers.get("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815  http.server's names

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""
