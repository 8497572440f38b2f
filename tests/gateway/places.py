"""A vendor's row, configured as an operator would, with the sandbox in the vendor's place."""

import json
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from gateway.dialects.sse import FrameSplitter
from infra.seeding import _provider_events, _target_events
from infra.settings import ConfiguredProvider, configured_providers, load
from infra.vendors import Vendor, fill
from schemas.events.changes import ProviderChanged
from schemas.events.llm import ResponseCompleted
from tests.gateway.worker import Worker
from tests.sandbox.served import Served

MODELS = {
    "openai": "gpt-4o-mini",
    "anthropic": "claude-haiku-4-5",
    "azure": "gpt-4o",
    "azure-deployments": "gpt-4o",
    "bedrock": "amazon.nova-lite-v1:0",
    "gemini": "gemini-2.5-flash",
    "vertex": "gemini-2.5-flash",
    "openrouter": "meta-llama/llama-3.3-70b-instruct",
    "fireworks": "accounts/fireworks/models/gpt-oss-120b",
    "huggingface": "meta-llama/Llama-3.3-70B-Instruct",
    "nvidia": "meta/llama-3.3-70b-instruct",
    "ollama": "llama3.2",
    "vllm": "meta-llama/Llama-3.1-8B-Instruct",
    "llamacpp": "local.gguf",
    "lmstudio": "qwen2.5-7b-instruct",
}
REASONING = {
    "anthropic": "claude-sonnet-4-5",
    "bedrock": "us.anthropic.claude-3-7-sonnet-20250219-v1:0",
    "gemini": "gemini-2.5-flash",
    "vertex": "gemini-2.5-pro",
    "cohere": "command-a-reasoning-08-2025",
    "mistral": "magistral-medium-latest",
    "groq": "openai/gpt-oss-120b",
    "together": "openai/gpt-oss-120b",
    "fireworks": "accounts/fireworks/models/gpt-oss-120b",
    "deepseek": "deepseek-v4-pro",
    "openrouter": "openai/gpt-oss-120b",
    "ollama": "gpt-oss:20b",
    "vllm": "Qwen/Qwen3-8B",
}
"""Models that show what they thought."""
VARIABLES = {
    "AWS_REGION": "us-east-1",
    "AZURE_OPENAI_ENDPOINT": "https://resource.openai.azure.com",
    "OPENAI_API_VERSION": "2024-10-21",
    "GOOGLE_CLOUD_LOCATION": "europe-west4",
    "GOOGLE_CLOUD_PROJECT": "p",
}
KEY = "sk-conformance-key"
HELLO: Any = [{"role": "user", "content": "Say hello."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
TIME: Any = {**WEATHER, "function": {**WEATHER["function"], "name": "get_time"}}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


class Place:
    """A row, configured against the sandbox."""

    def __init__(self, row: Vendor, worker: Worker, sandbox: Served, environment: Any) -> None:
        self.row, self.worker, self.sandbox = row, worker, sandbox
        self.model = MODELS.get(row.name) or row.models[0].name
        path = urlsplit(fill(row.base_url, VARIABLES) or "").path
        self.url = f"{sandbox.url}/{row.name}{path}"
        self._environment = environment

    def configured(self) -> ConfiguredProvider:
        environment = {**VARIABLES, self.row.url_variable: self.url}
        if self.row.key_variable:
            environment[self.row.key_variable] = self._key()
        for name, value in environment.items():
            self._environment.setenv(name, value)
        found = {one.name: one for one in configured_providers(load(sandbox="off"), environment)}
        return found[self.row.name]

    def _key(self) -> str:
        if self.row.identity != "google":
            return KEY
        return json.dumps(self.sandbox.control("GET", "/google/service-account"))

    def event(self, **changes: Any) -> ProviderChanged:
        """The row as the log has it, with changes of a test's own."""
        [event, *_] = _provider_events([self.configured()], load())
        return msgspec.structs.replace(event, **changes)

    def ready(self) -> None:
        self.worker.change(self.event(), *_target_events([self.configured()], {}))

    def behave(self, model: str = "", **behaviour: Any) -> None:
        self.sandbox.behave(model or self.model, f"/{self.row.name}", **behaviour)

    def ask(self, model: str = "", **body: Any) -> tuple[int, dict[str, str], Any]:
        """Ask as a client of OpenAI's chat would, without any client's help."""
        name = f"{self.row.name}/{model or self.model}"
        request = {"model": name, "messages": HELLO, **body}
        status, headers, data = self.worker.request("POST", "/v1/chat/completions", request)
        if body.get("stream") and status == 200:
            frames = [frame.data for frame in FrameSplitter().feed(data)]
            return status, headers, [b if b == b"[DONE]" else json.loads(b) for b in frames]
        return status, headers, json.loads(data)

    def asked(self, headers: dict[str, str]) -> str:
        """Return the path at which the vendor was called last for a call."""
        rows = self.sandbox.control("GET", "/sandbox/books?since=0&limit=10000")["data"]
        wanted = headers["x-weir-request-id"]
        return str([row["path"] for row in rows if row["weir_request_id"] == wanted][-1])

    def told(self, headers: dict[str, str]) -> ResponseCompleted:
        [response] = self.worker.events(ResponseCompleted, headers["x-weir-request-id"])
        return response

    def shows(self, what: str) -> None:
        if what not in self.row.offers:
            pytest.skip(f"{self.row.name} offers no {what}: {self.row.page}")


def good(answered: tuple[int, dict[str, str], Any]) -> tuple[dict[str, str], Any]:
    status, headers, body = answered
    assert status == 200, body
    return headers, body


def text_of(chunks: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks[:-1]
        for choice in chunk["choices"]
        if isinstance(choice["delta"].get("content") or "", str)
    )
