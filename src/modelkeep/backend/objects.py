"""A keep in an object store: S3, Google Cloud Storage or Azure, through obstore.

An object is made by one conditional request, so that it is there whole or not at all and never replaces another. Such
a request may be answered by nobody and be sent again: then it finds what it has made itself. Each object therefore
carries the token of the call that made it, and a refusal is believed only where the token is another's.
"""

import secrets
import threading
import time
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from itertools import islice
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import obstore
from obstore import exceptions, store

from modelkeep.backend.base import Entry, SeenAtOnce, check_key, check_limit, too_short
from modelkeep.backend.memory import MemoryWriter
from modelkeep.errors import AlreadyExists, ModelkeepError, NotFound, StorageError, UsageError

_SHARD_BYTES = 64 << 20
"""Large states go up as several objects of so many bytes, each by one conditional request, `_REQUESTS` at once."""

_REQUESTS = 8

_TRIES = 3
"""How often an object is made that was there, and is gone when it is looked at."""

_PAGE = 1000
"""Names on a page of a listing: what the services give at most."""

_MAKER = "modelkeepwrite"
"""The attribute of an object that says which call has made it; of letters alone, for Azure takes nothing else."""

_PROBE = ".probe"
"""An object that no listing shows: on it is tried whether the store refuses to replace what is there."""

_CLIENT = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(minutes=5), "allow_http": True}
"""Only an endpoint that a user has written as ``http://`` is asked without encryption."""

_RETRIES = {
    "max_retries": 8,
    "retry_timeout": timedelta(minutes=3),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}


_CLOCK_PAUSES = (0.1, 0.5, 2.0, 0.0)
"""Seconds between attempts at the store's clock."""


class ObjectBackend(SeenAtOnce):
    """Objects below a prefix of a bucket, ``s3://BUCKET/PREFIX``, ``gs://...`` or ``az://...``.

    Credentials, region and endpoint come from the variables that the clouds' own tools read, such as
    ``AWS_ACCESS_KEY_ID``, ``AWS_REGION`` and ``AWS_ENDPOINT_URL``.

    Raises:
        UsageError: the URL names no bucket, or a variable holds what cannot be.
    """

    exclusive_locks = False
    shard_bytes = _SHARD_BYTES
    requests = _REQUESTS

    def __init__(self, url: str, **options: Any) -> None:
        """``options`` go to obstore before those of the environment."""
        parts = urlsplit(url)
        if not parts.netloc:
            raise UsageError(f"{url} names no bucket; give {parts.scheme}://BUCKET/PREFIX")
        self._bucket = f"{parts.scheme}://{parts.netloc}"
        self._url = f"{self._bucket}/{parts.path.strip('/')}".rstrip("/")
        try:
            self._store: Any = store.from_url(
                self._url, **{"client_options": _CLIENT, "retry_config": _RETRIES, **options}
            )
        except (exceptions.BaseError, ValueError) as error:
            raise UsageError(f"{self._url} cannot be opened: {_told(error)}") from None
        self._guard = threading.Lock()
        self._probed = False
        self._ahead: float | None = None
        """Seconds that the store's clock is ahead of ours, once it was asked."""

    @property
    def url(self) -> str:
        return self._url

    def read(self, key: str, start: int = 0, end: int | None = None, *, limit: int | None = None) -> bytes:
        if start == 0 and end is None:
            return self._whole(key, limit)
        stop = self.size(key) if end is None or end <= start else end
        if not 0 <= start <= (stop if end is None else end) <= stop:
            raise too_short(key, start if end is None else end, stop)
        check_limit(key, stop - start, limit)
        return bytes(self._range(key, start, stop)) if start < stop else b""

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        view = buffer.cast("B")
        if len(view):
            view[:] = self._range(key, start, start + len(view))

    def create(self, key: str, data: bytes | bytearray) -> None:
        self._probe()
        if not self._put(check_key(key), data):
            raise AlreadyExists(f"{key} is in {self._url} already, and objects never change")

    def settle(self, key: str) -> None:
        self.size(key)  # what is there is durable

    def writer(self, key: str, *, size_hint: int = 0) -> MemoryWriter:  # noqa: ARG002  a bucket is never full
        return MemoryWriter(self, check_key(key))

    def size(self, key: str) -> int:
        with self._explained("look at", key):
            return int(obstore.head(self._store, check_key(key))["size"])

    def list(self, prefix: str, *, limit: int | None = None) -> Iterator[Entry]:
        return islice(self._entries(prefix, limit), limit)

    def folders(self, prefix: str) -> Iterator[str]:
        with self._explained("list", prefix):
            found = obstore.list_with_delimiter(self._store, check_key(prefix) if prefix else None)
        yield from sorted(one.rstrip("/").rpartition("/")[2] for one in found["common_prefixes"])

    def delete(self, key: str) -> None:
        try:
            with self._explained("delete", key):
                obstore.delete(self._store, check_key(key))
        except NotFound:
            pass

    def now(self) -> float:
        """By the clock of the store, which is asked once."""
        if self._ahead is None:
            self._ahead = self._difference()
        return time.time() + self._ahead

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """No store tells whether a holder lives: of two writers of a run the one with the older attempt is fenced."""
        check_key(key)
        yield

    def clean(self, prefix: str, older_than: float) -> int:  # noqa: ARG002  nothing is ever there in part
        return 0

    def _whole(self, key: str, limit: int | None) -> bytes:
        with self._explained("read", key):
            found = obstore.get(self._store, check_key(key))
            size = int(found.meta["size"])
            check_limit(key, size, limit)
            data = bytes(found.bytes())
        if len(data) != size:
            raise too_short(key, size, len(data))
        return data

    def _range(self, key: str, start: int, stop: int) -> Any:
        try:
            with self._explained("read", key):
                found = obstore.get_range(self._store, check_key(key), start=start, end=stop)
        except StorageError:
            size = self.size(key)  # stores refuse ranges past the end each in their own words
            if size >= stop:
                raise
            raise too_short(key, stop, size) from None
        if len(found) != stop - start:
            raise too_short(key, stop, start + len(found))
        return memoryview(found)

    def _put(self, key: str, data: Any) -> bool:
        """Make an object where there is none. False where another call than this one has made it."""
        token = secrets.token_hex(8)
        with self._explained("write", key):
            for _ in range(_TRIES):
                try:
                    obstore.put(self._store, key, data, mode="create", attributes={_MAKER: token}, use_multipart=False)
                except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                    maker = self._maker(key)
                    if maker is None:
                        continue  # it is gone again: a collector took it, so there is room for ours
                    return maker == token
                return True
        return False  # a store that refuses what it has not

    def _maker(self, key: str) -> str | None:
        """The token of the call that has made an object; None where it is gone again."""
        try:
            found = obstore.get(self._store, key)
        except FileNotFoundError:
            return None
        return str(found.attributes.get(_MAKER))

    def _probe(self) -> None:
        """Make sure, once, that the store refuses to replace an object: some that speak S3 do so silently.

        Raises StorageError where it does not.
        """
        with self._guard:
            if self._probed:
                return
            if self._put(_PROBE, b"modelkeep") and self._put(_PROBE, b"modelkeep"):
                raise StorageError(
                    f"{self._url}: this store replaces objects that it was asked to create only if absent "
                    "(If-None-Match: *), so that two writers would destroy each other's work; use a store that does not"
                )
            self._probed = True

    def _entries(self, prefix: str, limit: int | None) -> Iterator[Entry]:
        """In ascending order. The names in one folder come so, page by page; of folders within some stores do not.

        So those are sorted; with ``limit`` no more pages are asked for than have so many.
        """
        below, before = f"{prefix}/" if prefix else "", ""
        pages = self._pages(prefix)
        for page in pages:
            if any("/" in one.key.removeprefix(below) for one in page):
                found = list(page)
                while (limit is None or len(found) < limit) and (more := next(pages, None)) is not None:
                    found += more
                yield from sorted(found)
                return
            for one in page:
                if one.key <= before:
                    raise StorageError(f"{self._url} lists names in no order ({before}, then {one.key}); use another")
                before = one.key
                yield one

    def _pages(self, prefix: str) -> Iterator[Sequence[Entry]]:
        with self._explained("list", prefix):
            pages = iter(obstore.list(self._store, check_key(prefix) if prefix else None, chunk_size=_PAGE))
        while True:
            with self._explained("list", prefix):
                page = next(pages, None)
            if page is None:
                return
            yield [
                Entry(one["path"], int(one["size"]), one["last_modified"].timestamp())
                for one in page
                if not one["path"].rpartition("/")[2].startswith(".")
            ]

    def _difference(self) -> float:
        """How far the store's clock is ahead, in seconds."""
        for pause in _CLOCK_PAUSES:
            before = time.time()
            try:
                return self._date() + 0.5 - (before + time.time()) / 2
            except (exceptions.BaseError, HTTPException, OSError, ValueError) as error:
                if not pause:
                    text = f"{self._url}: the clock of the store cannot be read ({_told(error)}); ours is used instead"
                    warnings.warn(text, RuntimeWarning, stacklevel=3)
                time.sleep(pause)
        return 0.0

    def _date(self) -> float:
        """The date of an answer of the store, whatever it says: obstore shows none."""
        url = obstore.sign(self._store, "GET", _PROBE, timedelta(minutes=1))
        request = urllib.request.Request(url)  # noqa: S310  what obstore has signed is http or https
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                date = answer.headers.get("Date")
        except HTTPError as error:
            date = error.headers.get("Date")
            error.close()
        return parsedate_to_datetime(str(date)).timestamp()

    @contextmanager
    def _explained(self, verb: str, key: str) -> Iterator[None]:
        """Turn what obstore raises into ours, with the way out."""
        where = f"{self._url}/{key}".rstrip("/")
        try:
            yield
        except ModelkeepError:
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
                raise StorageError(
                    f"could not {verb} {where}: there is no bucket {self._bucket}; create it, or name another one"
                ) from None
            raise NotFound(f"there is no object {key} in {self._url}") from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise StorageError(
                f"could not {verb} {where}: the store refused the credentials ({_told(error)}); see "
                "docs/object_stores.md for the variables that hold them"
            ) from None
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise StorageError(
                f"could not {verb} {where}: {_told(error)}; see that the network and the store are there; what is "
                "committed is intact"
            ) from None


def _told(error: Exception) -> str:
    """What obstore says, in one line and without its Rust structures."""
    text = str(error).partition("\n\nDebug source")[0]
    return " ".join(text.split())[:400] or type(error).__name__
