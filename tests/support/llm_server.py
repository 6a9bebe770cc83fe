"""A real HTTP server on the loopback that speaks the OpenAI protocol, and fails as it is told to."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """faults: what happens to the next requests, in turn; then it answers well. asked: bodies received. keys: their Authorization."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.together = self.most_together = 0
        self.change: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.handle(self)

            def log_message(self, *_: object) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self._lock:
            self.asked.append(body)
            self.keys.append(request.headers.get("Authorization"))
            self.together += 1
            self.most_together = max(self.most_together, self.together)
            fault = self.faults.pop(0) if self.faults else ""
        try:
            self._answer(request, body, fault)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self._lock:
                self.together -= 1

    def _answer(self, request: BaseHTTPRequestHandler, body: dict[str, Any], fault: str) -> None:
        good = json.dumps(self.change(answer_to(body, request.path))).encode()
        status, headers, content = 200, {}, good
        if fault.isdigit():
            status, content = int(fault), json.dumps({"error": {"message": f"told to fail with {fault}"}}).encode()
            headers = {"Retry-After": "0"}
        elif fault == "garbage":
            content = b"<html>\xff\x00 it works!</html>"
        elif fault == "list":
            content = b"[1, 2]"
        elif fault == "deep":
            content = b"[" * 200_000
        elif fault == "text for a message":
            content = json.dumps({"choices": [{"message": "hi", "text": 3}]}).encode()
        elif fault == "drip headers":
            for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 80:
                request.wfile.write(bytes([byte]))
                request.wfile.flush()
                time.sleep(0.05)
            return
        elif fault == "empty":
            content = json.dumps({"choices": []}).encode()
        elif fault == "stall":
            time.sleep(1.5)
        elif fault == "hang up":
            request.close_connection = True
            return
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if fault == "half":
            content = content[: len(content) // 2]
            request.close_connection = True
        if fault == "drip":
            for i in range(0, len(content), 4):
                request.wfile.write(content[i : i + 4])
                request.wfile.flush()
                time.sleep(0.1)
            return
        if fault == "slow":
            time.sleep(0.1)
        request.wfile.write(content)


def answer_to(body: dict[str, Any], path: str) -> dict[str, Any]:
    """Deterministic: digits from the request's hash, one token a character."""
    if body.get("echo"):
        text = body["prompt"]
        given = {"tokens": list(text), "text_offset": list(range(len(text))), "token_logprobs": [None] + [-ord(c) / 100 for c in text[1:]]}
        return {"choices": [{"text": text, "finish_reason": "length", "logprobs": given}], "usage": {"prompt_tokens": len(text)}}
    text = str(int(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(), 16))[: min(6, body["max_tokens"])]
    choice: dict[str, Any] = {"finish_reason": "stop" if body["max_tokens"] > 6 else "length", "index": 0}
    if path.endswith("/chat/completions"):
        choice["message"] = {"role": "assistant", "content": text}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": c, "logprob": -0.5} for c in text]}
    else:
        choice["text"] = text
        if "logprobs" in body:
            choice["logprobs"] = {"tokens": list(text), "token_logprobs": [-0.5] * len(text)}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": len(text)}}
