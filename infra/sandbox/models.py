"""The models that the sandbox offers: rows of data under their vendors' public names."""

from typing import Literal

import msgspec

Dialect = Literal["openai", "anthropic", "bedrock", "gemini", "cohere"]

Kind = Literal[
    "chat", "completion", "embedding", "image", "speech", "transcription", "moderation", "rerank"
]


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model. Latencies are what it shows when no behaviour says otherwise."""

    name: str
    dialect: Dialect
    snapshot: str = ""
    """The dated name that answers carry; empty means `name` itself."""
    kind: Kind = "chat"
    context_tokens: int = 128_000
    output_tokens_max: int = 16_384
    reasoning: bool = False
    signs_calls: bool = False
    """Whether it numbers its calls, and wants its signature back with them."""
    tunable: bool = False
    dimensions: int = 0
    first_token_ms: float = 20.0
    per_token_ms: float = 1.0
    created_s: int = 1_715_367_049
    display_name: str = ""

    @property
    def reported(self) -> str:
        """The name in answers."""
        return self.snapshot or self.name


FURTHER: tuple[Model, ...] = (
    Model(
        "gemini-2.5-flash",
        "gemini",
        context_tokens=1_048_576,
        output_tokens_max=65_536,
        reasoning=True,
        per_token_ms=0.5,
    ),
    Model(
        "gemini-2.5-flash-lite",
        "gemini",
        context_tokens=1_048_576,
        output_tokens_max=65_536,
        per_token_ms=0.2,
    ),
    Model(
        "gemini-2.5-pro",
        "gemini",
        context_tokens=1_048_576,
        output_tokens_max=65_536,
        reasoning=True,
    ),
    Model(
        "gemini-3.8-flash",
        "gemini",
        context_tokens=1_048_576,
        output_tokens_max=65_536,
        reasoning=True,
        signs_calls=True,
        per_token_ms=0.5,
    ),
    Model(
        "gemini-embedding-001", "gemini", kind="embedding", context_tokens=2_048, dimensions=3_072
    ),
    Model("command-a-03-2025", "cohere", context_tokens=256_000, output_tokens_max=8_192),
    Model(
        "command-r7b-12-2024",
        "cohere",
        context_tokens=128_000,
        output_tokens_max=4_096,
        per_token_ms=0.5,
    ),
    Model(
        "command-a-reasoning-08-2025",
        "cohere",
        context_tokens=256_000,
        output_tokens_max=32_768,
        reasoning=True,
    ),
    Model("embed-v4.0", "cohere", kind="embedding", context_tokens=128_000, dimensions=1_536),
    Model("rerank-v3.5", "cohere", kind="rerank", context_tokens=4_096),
    Model("text-embedding-005", "gemini", kind="embedding", context_tokens=2_048, dimensions=768),
    Model(
        "amazon.titan-embed-text-v2:0",
        "bedrock",
        kind="embedding",
        context_tokens=8_192,
        dimensions=1_024,
    ),
    Model(
        "cohere.embed-v4:0", "bedrock", kind="embedding", context_tokens=128_000, dimensions=1_536
    ),
)
MODELS: tuple[Model, ...] = (
    Model("gpt-4o", "openai", "gpt-4o-2024-08-06", tunable=True, first_token_ms=30.0),
    Model("gpt-4o-mini", "openai", "gpt-4o-mini-2024-07-18", tunable=True, per_token_ms=0.5),
    Model(
        "gpt-4.1",
        "openai",
        "gpt-4.1-2025-04-14",
        tunable=True,
        context_tokens=1_047_576,
        output_tokens_max=32_768,
    ),
    Model(
        "gpt-4.1-mini",
        "openai",
        "gpt-4.1-mini-2025-04-14",
        tunable=True,
        context_tokens=1_047_576,
        output_tokens_max=32_768,
        per_token_ms=0.5,
    ),
    Model(
        "gpt-4.1-nano",
        "openai",
        "gpt-4.1-nano-2025-04-14",
        tunable=True,
        context_tokens=1_047_576,
        output_tokens_max=32_768,
        first_token_ms=10.0,
        per_token_ms=0.2,
    ),
    Model(
        "gpt-3.5-turbo",
        "openai",
        "gpt-3.5-turbo-0125",
        tunable=True,
        context_tokens=16_385,
        output_tokens_max=4_096,
    ),
    Model(
        "o4-mini",
        "openai",
        "o4-mini-2025-04-16",
        context_tokens=200_000,
        output_tokens_max=100_000,
        reasoning=True,
    ),
    Model(
        "gpt-5-mini",
        "openai",
        "gpt-5-mini-2025-08-07",
        context_tokens=400_000,
        output_tokens_max=128_000,
        reasoning=True,
    ),
    Model(
        "text-embedding-3-small", "openai", kind="embedding", context_tokens=8_192, dimensions=1_536
    ),
    Model(
        "text-embedding-3-large", "openai", kind="embedding", context_tokens=8_192, dimensions=3_072
    ),
    Model("gpt-3.5-turbo-instruct", "openai", kind="completion", context_tokens=4_096),
    Model("gpt-image-1", "openai", kind="image"),
    Model("dall-e-3", "openai", kind="image"),
    Model("tts-1", "openai", kind="speech"),
    Model("gpt-4o-mini-tts", "openai", kind="speech"),
    Model("whisper-1", "openai", kind="transcription"),
    Model("gpt-4o-transcribe", "openai", kind="transcription"),
    Model("omni-moderation-latest", "openai", kind="moderation"),
    Model(
        "claude-3-5-haiku-latest",
        "anthropic",
        "claude-3-5-haiku-20241022",
        context_tokens=200_000,
        output_tokens_max=8_192,
        per_token_ms=0.5,
        display_name="Claude Haiku 3.5",
    ),
    Model(
        "claude-3-7-sonnet-latest",
        "anthropic",
        "claude-3-7-sonnet-20250219",
        context_tokens=200_000,
        output_tokens_max=64_000,
        reasoning=True,
        display_name="Claude Sonnet 3.7",
    ),
    Model(
        "claude-sonnet-4-0",
        "anthropic",
        "claude-sonnet-4-20250514",
        context_tokens=200_000,
        output_tokens_max=64_000,
        reasoning=True,
        display_name="Claude Sonnet 4",
    ),
    Model(
        "claude-sonnet-4-5",
        "anthropic",
        "claude-sonnet-4-5-20250929",
        context_tokens=200_000,
        output_tokens_max=64_000,
        reasoning=True,
        display_name="Claude Sonnet 4.5",
    ),
    Model(
        "claude-haiku-4-5",
        "anthropic",
        "claude-haiku-4-5-20251001",
        context_tokens=200_000,
        output_tokens_max=64_000,
        reasoning=True,
        per_token_ms=0.5,
        display_name="Claude Haiku 4.5",
    ),
    Model(
        "claude-opus-4-5",
        "anthropic",
        "claude-opus-4-5-20251101",
        context_tokens=200_000,
        output_tokens_max=64_000,
        reasoning=True,
        first_token_ms=40.0,
        per_token_ms=2.0,
        display_name="Claude Opus 4.5",
    ),
    Model(
        "anthropic.claude-3-haiku-20240307-v1:0",
        "bedrock",
        context_tokens=200_000,
        output_tokens_max=4_096,
        per_token_ms=0.5,
    ),
    Model(
        "us.anthropic.claude-3-7-sonnet-20250219-v1:0",
        "bedrock",
        context_tokens=200_000,
        output_tokens_max=64_000,
        reasoning=True,
    ),
    Model("amazon.nova-lite-v1:0", "bedrock", context_tokens=300_000, output_tokens_max=10_000),
    *FURTHER,
)


class Catalogue:
    """The models by name and by snapshot; tuned models join it while the sandbox runs."""

    def __init__(self, models: tuple[Model, ...] = MODELS) -> None:
        self._models: dict[str, Model] = {}
        for model in models:
            self.add(model)

    def add(self, model: Model) -> None:
        """Offer a model under its name and its snapshot."""
        self._models[model.name] = model
        if model.snapshot:
            self._models[model.snapshot] = model

    def remove(self, name: str) -> None:
        """Take a model away under this name."""
        self._models.pop(name, None)

    def get(self, name: str, dialect: Dialect) -> Model | None:
        """The model of this dialect by that name or snapshot."""
        model = self._models.get(name)
        return model if model is not None and model.dialect == dialect else None

    def listed(self, dialect: Dialect) -> list[tuple[str, Model]]:
        """Every callable name of a dialect with its model, in the order of the table."""
        return [(name, model) for name, model in self._models.items() if model.dialect == dialect]
