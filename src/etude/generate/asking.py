"""Asking a server over HTTP: time limits, retries with back-off, and a disk cache so that nothing is asked twice.

The standard library alone: the light core can talk to servers without another package (docs/decisions/0006-servers.md).
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from etude.data.cards import cache_folder
from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput, reason

Answer = dict[str, Any]
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the second attempt, doubled before each further one; the most that a server's Retry-After is obeyed."""
LARGEST = 64 * 2**20
"""Bytes of an answer, at most."""


class _Again(Exception):
    """An attempt that may succeed later. after: seconds that the server asked to wait."""

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


class Client:
    """Posts JSON and gets JSON.

    url:      of the API, "http://localhost:8000/v1".    key: sent as a bearer token; neither cached nor shown.
    timeout:  seconds for one attempt, from its beginning to the answer's last byte.   attempts: of one request, at most.
    parallel: requests under way together.
    cache:    folder of answers by request; True: "answers" in the cache folder; False: none.
    asked:    requests that a server answered, as against the cache.
    """

    def __init__(
        self, url: str, key: str = "", *, timeout: float = 60.0, attempts: int = 6, parallel: int = 8, cache: str | Path | bool = True
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise BadInput("server", repr(url), "an address that begins with http:// or https://")
        try:
            parts = urllib.parse.urlsplit(url)
            if not parts.hostname or (parts.port is None and parts.netloc.endswith(":")) or not url.isprintable() or " " in url:
                raise ValueError
            parts.hostname.encode("idna")
        except ValueError:
            raise BadInput("server", repr(url), "an address, http://HOST:PORT/v1") from None
        if not (key.isascii() and key.isprintable()):  # what http.client would say of it holds the key
            raise BadInput("server, key", "a line end, or a character that no header takes", "a key of printable ASCII")
        if not 0 < timeout < float("inf") or attempts < 1 or parallel < 1:
            raise BadInput("server", f"timeout {timeout}, attempts {attempts}, parallel {parallel}", "a time above 0, both numbers >= 1")
        self.url, self._key, self.timeout, self.attempts, self.parallel = url.rstrip("/"), key, timeout, attempts, parallel
        self.cache = cache_folder() / "answers" if cache is True else Path(cache) if cache else None
        self.asked = 0
        self._counting = threading.Lock()
        self._mine = threading.local()  # of each thread, the deadline of its attempt
        self._opener = urllib.request.build_opener(_Http(self._watch), _Https(self._watch))

    def ask_all(
        self, path: str, bodies: Sequence[Answer], check: Callable[[Answer], None], progress: Callable[[float], None] | None = None
    ) -> list[Answer]:
        """The answers to `bodies`, in order; equal ones are asked once.

        check: raises ValueError for an answer that is none; it is then asked again. Raises BadInput where the server refuses or
        never gives a good answer; what was answered until then is in the cache.
        """
        keys = [self._key_of(path, body) for body in bodies]
        stop = threading.Event()
        pool = ThreadPoolExecutor(self.parallel)
        try:
            under_way: dict[str, Future[Answer]] = {}
            for key, body in zip(keys, bodies, strict=True):
                if key not in under_way:
                    under_way[key] = pool.submit(self._ask, path, body, key, check, stop)
            pending = set(under_way.values())
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if progress is not None:
                    progress(1 - len(pending) / len(under_way))
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
        return [under_way[key].result() for key in keys]

    def _watch(self, sock: socket.socket) -> None:
        self._mine.deadline.watch(sock)

    def _key_of(self, path: str, body: Answer) -> str:
        return hashlib.sha256(json.dumps([self.url, path, body], sort_keys=True).encode()).hexdigest()

    def _ask(self, path: str, body: Answer, key: str, check: Callable[[Answer], None], stop: threading.Event) -> Answer:
        place = None if self.cache is None else self.cache / key[:2] / f"{key}.json"
        if place is not None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # none yet, or damaged: it is asked again
                answer = json.loads(place.read_text())["answer"]
                check(answer)
                return answer
        answer = self._asked(path, body, check, stop)
        if place is not None:
            try:
                write_atomic(place, json.dumps({"url": self.url + path, "request": body, "answer": answer}))
            except OSError as error:
                raise BadInput(str(place), reason(error), "a folder that can be written; $ETUDE_CACHE names another") from error
        return answer

    def _asked(self, path: str, body: Answer, check: Callable[[Answer], None], stop: threading.Event) -> Answer:
        why = ""
        for attempt in range(self.attempts):
            if stop.is_set():
                break
            try:
                answer = self._attempt(path, body)
                check(answer)
            except _Again as error:
                why, after = str(error), error.after
            except ValueError as error:
                why, after = f"an answer that is none: {error}", 0.0
            else:
                with self._counting:
                    self.asked += 1
                return answer
            if attempt + 1 < self.attempts:
                pause = min(LONGEST_PAUSE, max(after, FIRST_PAUSE * 2**attempt * (1 + random.random() / 4)))
                stop.wait(pause)  # jitter of its own: no result depends on it
        raise BadInput(f"server {self.url}", f"{why or 'no answer'} ({self.attempts} attempts)", "an OpenAI-compatible server that answers")

    def _attempt(self, path: str, body: Answer) -> Answer:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "etude"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers, method="POST")
        with _Deadline(self.timeout) as deadline:
            self._mine.deadline = deadline
            try:
                return self._answered(request, deadline, path)
            except _Again:
                if deadline.passed:  # whatever the cut connection looked like
                    raise _Again(f"no whole answer in {self.timeout:g} s") from None
                raise

    def _answered(self, request: urllib.request.Request, deadline: _Deadline, path: str) -> Answer:
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                body = _read(response)
            if deadline.passed:
                raise _Again("cut off")
            return _parsed(body)
        except urllib.error.HTTPError as error:
            with error:
                said = _message(error)
            if error.code in (408, 409, 425, 429) or error.code >= 500:
                raise _Again(f"status {error.code}{said}", _seconds(error.headers.get("Retry-After"))) from None
            raise BadInput(f"server {self.url}{path}", f"status {error.code}{said}", "a request that it accepts") from None
        except urllib.error.URLError as error:
            raise _Again(f"no connection ({getattr(error.reason, 'strerror', None) or error.reason})") from None
        except TimeoutError:
            raise _Again(f"no whole answer in {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Again(f"a broken connection ({type(error).__name__})") from None


class _Deadline:
    """Cuts the connections of one attempt when its time is over, whatever drips: a socket's own time limit begins anew with every byte.

    passed: whether they were cut.
    """

    def __init__(self, seconds: float) -> None:
        self.passed, self._sockets = False, []
        self._lock, self._timer = threading.Lock(), threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.append(sock)
            if self.passed:
                _shut(sock)

    def _cut(self) -> None:
        with self._lock:
            self.passed = True
            for sock in self._sockets:
                _shut(sock)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below any TLS, whose own farewell would wait


def _watched(kind: type[http.client.HTTPConnection], watch: Callable[[socket.socket], None]) -> Any:
    class Watched(kind):
        def connect(self) -> None:
            super().connect()
            watch(self.sock)

    return Watched


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watch: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self._kind = _watched(http.client.HTTPConnection, watch)

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._kind, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watch: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self._kind = _watched(http.client.HTTPSConnection, watch)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._kind, req)


def _read(response: Any) -> bytes:
    """The whole body."""
    parts, size = [], 0
    while part := response.read1(65536):
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            raise _Again(f"more than {LARGEST >> 20} MiB")
    if response.length:  # what Content-Length promised and never came
        raise _Again("half an answer")
    return b"".join(parts)


def _parsed(body: bytes) -> Answer:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise _Again(f"no JSON: {_short(body)}") from None
    if not isinstance(answer, dict):
        raise _Again(f"no JSON object: {_short(body)}")
    return answer


def _message(error: urllib.error.HTTPError) -> str:
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        body = error.read(4096)
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            return f": {_short(str(json.loads(body)['error']['message']).encode())}"
        return f": {_short(body)}" if body.strip() else ""
    return ""


def _short(body: bytes) -> str:
    text = " ".join(body.decode("utf-8", errors="replace").split())
    return text if len(text) <= 120 else text[:117] + "..."


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text or 0)
    except ValueError:  # a date
        return 0.0
    return seconds if 0 <= seconds < float("inf") else 0.0
