"""The vendors that Weir knows by name: rows of data, chosen by the variables that their own clients read.

A vendor that speaks OpenAI's dialect is one more row here, or a table in `weir.toml`.
"""

from dataclasses import dataclass

SANDBOX_SECRET = "WEIR_SANDBOX_KEY"  # noqa: S105 - the name of a variable
"""The variable that holds the sandbox's key; the sandbox takes any."""

LOCAL_PROVIDER = "local"
"""The model server: tuned and local models, behind OpenAI's dialect."""


@dataclass(frozen=True)
class Model:
    """A listed model: a candidate of `auto` (a model that is not listed can still be named)."""

    name: str
    context_length: int | None = None
    max_output_tokens: int | None = None
    capabilities: tuple[str, ...] = ("chat", "stream", "tools")
    quality: float | None = None


@dataclass(frozen=True)
class Vendor:
    """How to reach a vendor. `key_variable` None: it needs no key."""

    name: str
    dialect: str
    base_url: str
    key_variable: str | None
    url_variable: str
    price_provider: str | None = None
    models: tuple[Model, ...] = ()


VENDORS = (
    Vendor(
        "openai",
        "openai",
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "openai",
        (
            Model("gpt-4o-mini", 128_000, 16_384),
            Model("gpt-4o", 128_000, 16_384),
            Model("gpt-4.1-nano", 1_047_576, 32_768),
            Model("gpt-4.1-mini", 1_047_576, 32_768),
            Model("gpt-4.1", 1_047_576, 32_768),
        ),
    ),
    Vendor(
        "anthropic",
        "anthropic",
        "https://api.anthropic.com",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_BASE_URL",
        "anthropic",
        (
            Model("claude-haiku-4-5", 200_000, 64_000),
            Model("claude-sonnet-4-5", 200_000, 64_000),
            Model("claude-opus-4-5", 200_000, 64_000),
        ),
    ),
    Vendor(
        "mistral",
        "openai",
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        "MISTRAL_BASE_URL",
        "mistral",
        (Model("mistral-small-latest", 128_000), Model("mistral-large-latest", 128_000)),
    ),
    Vendor(
        "groq",
        "openai",
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
        "GROQ_BASE_URL",
        "groq",
        (Model("llama-3.3-70b-versatile", 131_072, 32_768),),
    ),
    Vendor(
        "deepseek",
        "openai",
        "https://api.deepseek.com/v1",
        "DEEPSEEK_API_KEY",
        "DEEPSEEK_BASE_URL",
        "deepseek",
        (Model("deepseek-chat", 128_000, 8_192),),
    ),
    Vendor(
        "openrouter",
        "openai",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        "OPENROUTER_BASE_URL",
        "openrouter",
    ),
    Vendor("ollama", "openai", "http://127.0.0.1:11434/v1", None, "OLLAMA_BASE_URL"),
    Vendor("vllm", "openai", "http://127.0.0.1:8000/v1", None, "VLLM_BASE_URL"),
)
