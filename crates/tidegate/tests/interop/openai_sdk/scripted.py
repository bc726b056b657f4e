"""An engine that keeps what it is sent, byte for byte, and answers as it is told."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "scripted"


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Scripted:
    """The calls of one test, and its answers in their order; the last one is given again and again."""

    port: int
    answers: list[Answer] = field(default_factory=list)
    calls: list[Received] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_answer(self, received: Received) -> Answer:
        with self.lock:
            self.calls.append(received)
            return self.answers[min(len(self.calls), len(self.answers)) - 1]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def do_GET(self) -> None:
        models = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "test"}]}
        known = {"/health": {"status": "ok"}, "/v1/models": models}
        body = known.get(self.path)
        self.whole(200 if body else 404, json.dumps(body or {}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.engine.next_answer(Received(self.path, headers, body))(self)

    def whole(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def begin_events(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def piece(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def end_events(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def break_off(self) -> None:
        """A reset, not an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class ScriptedServer(ThreadingHTTPServer):
    daemon_threads = True
    engine: Scripted

    def handle_error(self, *_: object) -> None:
        """Who left does not matter to the engine."""


Answer = Callable[[Handler], None]


def says(status: int, body: object, **headers: str) -> Answer:
    """A whole answer; bytes are sent as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda handler: handler.whole(status, data, **headers)


def streams(*pieces: bytes, end: str = "whole") -> Answer:
    """A stream of these bytes, each piece sent by itself. It ends `whole`, or is `reset` after them."""

    def answer(handler: Handler) -> None:
        handler.begin_events()
        for piece in pieces:
            handler.piece(piece)
        if end == "reset":
            handler.break_off()
        else:
            handler.end_events()

    return answer


def hangs_up(handler: Handler) -> None:
    """Takes the call and breaks off without a word."""
    handler.break_off()


def chunk(text: str | None = None, **changes: object) -> dict:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [choice],
    } | changes


def event(data: dict) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
#: An answer in one piece.
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


@contextmanager
def scripted_engine() -> Iterator[Scripted]:
    with ScriptedServer(("127.0.0.1", 0), Handler) as server:
        server.engine = Scripted(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.engine
        finally:
            server.shutdown()
            thread.join()
