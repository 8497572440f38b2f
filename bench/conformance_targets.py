"""The targets of the conformance claim: one of every kind, as an operator would configure it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from infra.vendors import VENDORS, Vendor, fill

ERRORS = (
    "bad_request",
    "unauthorized",
    "not_found",
    "rate_limited",
    "unavailable",
    "too_long",
)
CONVERSATION = (
    "whole",
    "streamed",
    "tools",
    "tools_streamed",
    "tools_parallel",
    "structured",
    "image",
    "batch",
    "models",
)
CASES = {
    "openai": (
        *CONVERSATION,
        "completions",
        "responses",
        "embeddings",
        "moderation",
        "picture",
        "speech",
        "transcription",
        *ERRORS,
    ),
    "anthropic": (*CONVERSATION, "count_tokens", *ERRORS),
}
"""What each vendor's clients are asked to do; `embeddings` and what follows it where a target offers it."""
OFFERED = ("embedding", "moderation", "picture", "speech", "transcription")
CASE_OF = {"embeddings": "embedding"}
WAYS = ("limited", "away", "full")
"""How the models of a target fail: 429, 503, a prompt beyond the context."""
TWINS = {"limited": "limited", "away": "away", "gone": "away"}
"""Providers that fail, and how: the gateway remembers it of a provider, so they are nobody else's.
The route `NAME-nobody` leads to the two that are away."""
KEY = "sk-conformance-key"
VARIABLES = {
    "AWS_REGION": "us-east-1",
    "AZURE_OPENAI_ENDPOINT": "https://resource.openai.azure.com",
}


@dataclass(frozen=True)
class Target:
    """A provider and its models: the one that answers, and those that fail in one way each."""

    name: str
    path: str
    model_name: str
    limited: str = ""
    away: str = ""
    full: str = ""
    completion: str = ""
    takes_urls: bool = True
    embedding: str | None = None
    moderation: str | None = None
    picture: str | None = None
    speech: str | None = None
    transcription: str | None = None

    def __post_init__(self) -> None:
        for way in WAYS:
            if not getattr(self, way):
                object.__setattr__(self, way, f"{self.name}-{way}")

    @property
    def row(self) -> Vendor:
        """What the product knows of the vendor."""
        return next(row for row in VENDORS if row.name == self.name)

    @property
    def base(self) -> str:
        """Its base path at the sandbox."""
        return self.name

    @property
    def model(self) -> str:
        """What a client asks for."""
        return f"{self.name}/{self.model_name}"

    def cases(self, client: str) -> list[str]:
        """Return the cases that this client plays here."""
        found = [case for case in CASES[client] if self._offers(case)]
        found.insert(found.index("image"), "image_url" if self.takes_urls else "image_url_refused")
        return found

    def _offers(self, case: str) -> bool:
        offered = CASE_OF.get(case, case)
        return offered not in OFFERED or getattr(self, offered) is not None

    def plan(self) -> dict[str, Any]:
        """Return what the probes read of it."""
        offered = {kind: getattr(self, kind) for kind in OFFERED}
        return {
            "name": self.name,
            "model": self.model,
            "limited": f"{self.name}-limited/{self.limited}",
            "away": f"{self.name}-nobody",
            "full": f"{self.name}/{self.full}",
            "completion": f"{self.name}/{self.completion or self.model_name}",
            **{kind: f"{self.name}/{model}" for kind, model in offered.items() if model},
            "cases": {client: self.cases(client) for client in CASES},
        }


TARGETS = (
    Target(
        "openai",
        "/openai/v1",
        "gpt-4o-mini",
        completion="gpt-3.5-turbo-instruct",
        embedding="text-embedding-3-small",
        moderation="omni-moderation-latest",
        picture="gpt-image-1",
        speech="tts-1",
        transcription="whisper-1",
    ),
    Target("anthropic", "/anthropic", "claude-haiku-4-5"),
    Target("gemini", "/gemini/v1beta", "gemini-2.5-flash", embedding="gemini-embedding-001"),
    Target("bedrock", "/bedrock", "amazon.nova-lite-v1:0", takes_urls=False),
    Target("cohere", "/cohere", "command-a-03-2025", embedding="embed-v4.0"),
    Target("azure", "/azure/openai/v1", "gpt-4o"),
    Target(
        "mistral",
        "/mistral/v1",
        "mistral-small-latest",
        limited="mistral-large-latest",
        away="magistral-medium-latest",
        full="ministral-8b-latest",
    ),
)
"""The last one speaks OpenAI's dialect with words of its own."""


def added_models(targets: Iterable[Target]) -> list[dict[str, str]]:
    """Return the models that the sandbox lacks: those named after their way to fail."""
    return [
        {"name": name, "dialect": target.row.dialect}
        for target in targets
        for way in WAYS
        if (name := getattr(target, way)) == f"{target.name}-{way}"
    ]


def environment(targets: Iterable[Target], sandbox: str) -> dict[str, str]:
    """Return the variables by which the vendors' rows come to life."""
    found = dict(VARIABLES)
    for target in targets:
        found[target.row.url_variable] = f"{sandbox}{target.path}"
        if target.row.key_variable:
            found[target.row.key_variable] = KEY
    return found


def config(targets: Iterable[Target], sandbox: str) -> str:
    """Return the tables of `weir.toml`: models that no row lists, and the twins that fail."""
    lines = []
    for target in targets:
        row = target.row
        if target.model_name not in {model.name for model in row.models}:
            lines += [f"[providers.{target.name}]", f'models = ["{target.model_name}"]', ""]
        options = {name: fill(text, VARIABLES) for name, text in row.options.items()}
        for twin, way in TWINS.items():
            lines += [
                f"[providers.{target.name}-{twin}]",
                f'dialect = "{row.dialect}"',
                f'base_url = "{sandbox}{target.path}"',
                f'key_env = "{row.key_variable}"',
                f"quirks = {json.dumps(row.quirks)}",
                f"options = {{ {', '.join(f'{k} = {json.dumps(v)}' for k, v in options.items())} }}",
                f'models = ["{getattr(target, way)}"]',
                "",
            ]
        gone = ", ".join(
            f'{{ target = "{target.name}-{twin}/{target.away}" }}' for twin in ("away", "gone")
        )
        lines += [f"[routes.{target.name}-nobody]", f"targets = [{gone}]", ""]
    return "\n".join(lines)
