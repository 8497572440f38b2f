"""A sandbox on a real socket for every test module, and strict reading of what the SDKs parsed."""

import asyncio
import http.client
import json
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import uvloop
from google import genai
from google.genai import types as genai_types
from pydantic import BaseModel

from infra.broker import free_port
from infra.sandbox.server import run
from infra.sandbox.settings import SandboxSettings


@dataclass
class Answered:
    """What came over the socket: status 0 when the connection ended before any header."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool
    """Whether the body ended as HTTP says that it ends."""

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A running sandbox."""

    port: int
    books: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def openai(self, base: str = "", **options: Any) -> openai.OpenAI:
        """The official client against this sandbox."""
        return openai.OpenAI(
            base_url=f"{self.url}{base}/v1", api_key="sk-sandbox-test", max_retries=0, **options
        )

    def anthropic(self, base: str = "", **options: Any) -> anthropic.Anthropic:
        """The official client against this sandbox."""
        return anthropic.Anthropic(
            base_url=f"{self.url}{base}", api_key="sk-ant-sandbox", max_retries=0, **options
        )

    def gemini(self, base: str = "", key: str = "sk-sandbox-test") -> genai.Client:
        """The official client against this sandbox."""
        options = genai_types.HttpOptions(base_url=f"{self.url}{base}", api_version="v1beta")
        return genai.Client(api_key=key, http_options=options)

    def post(self, path: str, body: Any, headers: dict[str, str], timeout_s: float = 5) -> Answered:
        """POST without any client's help, to see what the socket shows."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
        except (ConnectionResetError, http.client.RemoteDisconnected) as error:
            return Answered(0, {"error": type(error).__name__}, b"", whole=False)
        try:
            seen, whole = answer.read(), True
        except http.client.IncompleteRead as cut:
            seen, whole = cut.partial, False
        finally:
            connection.close()
        return Answered(answer.status, dict(answer.headers.items()), seen, whole)

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """Call a control endpoint."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=data, method=method)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def behave(self, model: str, base: str = "", **behaviour: Any) -> None:
        """Set a model's behaviour, by default without any latency."""
        behaviour = {"first_token_ms": 0, "per_token_ms": 0, **behaviour}
        self.control("PUT", f"{base}/sandbox/models/{model}/behaviour", behaviour)

    def rows(self, base: str = "", since: int = 0) -> list[dict[str, Any]]:
        """The rows of a base path."""
        page = self.control("GET", f"/sandbox/books?since={since}&limit=10000")
        return [row for row in page["data"] if row["base"] == base]


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One sandbox for all tests; each test uses a base path of its own where it changes behaviour."""
    books = tmp_path_factory.mktemp("sandbox") / "books.jsonl"
    served = Served(free_port(), books)
    loop = uvloop.new_event_loop()
    stop = asyncio.Event()
    settings = SandboxSettings(port=served.port, books=books, tuning_s=0.6)
    thread = threading.Thread(target=lambda: loop.run_until_complete(run(settings, stop)))
    thread.start()
    for _ in range(100):
        try:
            served.control("GET", "/sandbox/health")
            break
        except OSError:
            threading.Event().wait(0.05)
    yield served
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    assert not thread.is_alive()


def strictly(value: Any) -> None:
    """Fail when an SDK object holds a field that its model does not know, or one of a wrong type."""
    assert isinstance(value, BaseModel)
    _no_extra(value, type(value).__name__)
    type(value).model_validate_json(value.model_dump_json(exclude_unset=True), strict=True)


def _no_extra(value: Any, where: str) -> None:
    if isinstance(value, BaseModel):
        assert not value.model_extra, f"{where} has unknown {sorted(value.model_extra or ())}"
        for name in type(value).model_fields:
            _no_extra(getattr(value, name), f"{where}.{name}")
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            _no_extra(entry, f"{where}[{index}]")
    elif isinstance(value, dict):
        for name, entry in value.items():
            _no_extra(entry, f"{where}[{name}]")
