"""Real S3 servers on this machine: SeaweedFS, which keeps its objects on a disk, and moto, which is Python."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import obstore

BUCKET = "bkt-one"
WEED = Path(sys.executable).with_name("weed")
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
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT"), timeout=10).close()
        yield {**_ACCESS, "AWS_ENDPOINT_URL": endpoint}
    finally:
        server.stop()


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
    raise RuntimeError(f"weed did not start; see {process.args}")
