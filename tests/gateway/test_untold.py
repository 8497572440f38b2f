"""An answer that no other dialect has a word for ends in a clear error, and is paid for."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.states import price, provider
from tests.gateway.worker import Worker

MODEL = "gemini-2.5-flash-image"
DRAWN: Any = {
    "responseId": "r",
    "candidates": [
        {
            "content": {
                "parts": [{"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}]
            },
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 1290},
}


class Painter(http.server.BaseHTTPRequestHandler):
    """Answers every prompt with a picture, whole or as a stream of one frame."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        data, kind = json.dumps(DRAWN).encode(), "application/json"
        if "streamGenerateContent" in self.path:
            data, kind = b"data: " + data + b"\r\n\r\n", "text/event-stream"
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def painter(worker: Worker) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Painter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    worker.change(provider("painter", "gemini", url), price("painter", MODEL, 300, 2_500))
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.req("GEN-05", "GW-16")
@pytest.mark.usefixtures("painter")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_picture_for_another_dialect_is_an_error_that_says_the_way_out(
    worker: Worker, path: str, stream: bool
) -> None:
    hello = [{"role": "user", "content": "Draw a cat."}]
    asked = {"model": f"painter/{MODEL}", "max_tokens": 99, "messages": hello, "stream": stream}
    status, headers, body = worker.request("POST", path, json.dumps(asked).encode())
    assert (status, headers["x-weir-error-code"]) == (400, "upstream_rejected")
    assert "'inlineData'" in json.loads(body)["error"]["message"]
    assert b"in its own dialect ('gemini')" in body
    _, response, cost = worker.call(headers["x-weir-request-id"])
    assert (response.outcome, len(response.attempts)) == ("failed", 1)
    assert response.output_tokens == 1290
    assert cost.cost_nano_usd


@pytest.mark.req("GEN-05")
@pytest.mark.usefixtures("painter")
@pytest.mark.parametrize("verb", ["generateContent", "streamGenerateContent?alt=sse"])
def test_a_picture_for_its_own_dialect_comes_as_it_was(worker: Worker, verb: str) -> None:
    asked = {"contents": [{"role": "user", "parts": [{"text": "Draw a cat."}]}]}
    place = f"/v1beta/models/painter/{MODEL}:{verb}"
    status, _, body = worker.request("POST", place, json.dumps(asked).encode())
    assert status == 200
    assert json.loads(body.removeprefix(b"data: ")) == DRAWN
