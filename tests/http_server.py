"""A service behind HTTP for tests: it counts what it is asked, fails as it is told to, stops and starts again."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor


class Server:
    """Serves `answer`, images (1,3,H,W) in [0,1] -> scores (1,S), on a free port of this machine.

    Attributes:
        asked: SHA-256 of a PNG file -> how often it was asked.
        headers: those of all requests.
        failures: what the next requests get instead of an answer: (status, headers), or bytes of a cut-off answer.
        stop_after: answers after which the server stops by itself; None: never.
    """

    def __init__(self, answer: Callable[[Tensor], Tensor], description: dict):
        self.answer, self.description = answer, description
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.failures: list[tuple[int, dict[str, str]] | bytes] = []
        self.stop_after: int | None = None
        self.on_stop: Callable[[], None] = lambda: None
        self._port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}/classify"

    def start(self) -> None:
        server = self

        class Handler(_Handler):
            service = server

        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._http.server_address[1]
        Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self.on_stop()


class _Handler(BaseHTTPRequestHandler):
    service: Server

    def do_GET(self) -> None:
        if not self._fail():
            self._reply(self.service.description)

    def do_POST(self) -> None:
        png = self.rfile.read(int(self.headers["Content-Length"]))
        if self._fail():
            return
        self.service.asked[hashlib.sha256(png).hexdigest()] += 1
        image = pil_to_tensor(Image.open(io.BytesIO(png)))[None].float() / 255
        with torch.no_grad():
            scores = self.service.answer(image)[0]
        self._reply({"scores": scores.tolist()})
        if self.service.stop_after == sum(self.service.asked.values()):
            self.service.stop_after = None
            Thread(target=self.service.stop).start()

    def _fail(self) -> bool:
        self.service.headers.append(dict(self.headers))
        if not self.service.failures:
            return False
        failure = self.service.failures.pop(0)
        if isinstance(failure, bytes):
            self._reply(failure, length=2 * len(failure))
        else:
            self.send_response(failure[0], "what a proxy says")
            for name, value in failure[1].items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
        return True

    def _reply(self, content: object, length: int | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass
