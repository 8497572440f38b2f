"""The vendors that Weir knows by name: rows of data, chosen by the variables that their own clients read.

A vendor that speaks a known dialect is one more row here, or a table in `weir.toml`; the row runs
the whole conformance suite (tests/gateway/test_conformance.py). What a row says of a vendor stands on
its `page`; what its words in `quirks` do is said in gateway/dialects/quirks.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

SANDBOX_SECRET = "WEIR_SANDBOX_KEY"  # noqa: S105 - the name of a variable
"""The variable that holds the sandbox's key; the sandbox takes any."""

LOCAL_PROVIDER = "local"
"""The model server: tuned and local models, behind OpenAI's dialect."""

PLAIN = ("chat", "stream", "tools")
STRUCTURED = (*PLAIN, "structured")
FULL = (*STRUCTURED, "vision")
REASONING = (*STRUCTURED, "reasoning")
FULL_REASONING = (*FULL, "reasoning")

_VARIABLE = re.compile(r"\{([A-Z][A-Z0-9_|]*)\}")


@dataclass(frozen=True)
class Model:
    """A listed model: a candidate of `auto` (a model that is not listed can still be named)."""

    name: str
    context_length: int | None = None
    max_output_tokens: int | None = None
    capabilities: tuple[str, ...] = PLAIN
    quality: float | None = None


@dataclass(frozen=True)
class Vendor:
    """How to reach a vendor.

    `key_variable` None: it needs no key. `base_url` and `options` may name variables of the
    environment (``{AWS_REGION}``, ``{A|B}`` the first that is set). `identity` is the way of
    authentication without a key, for a vendor that a table of the file asks for. `offers` is what
    the vendor's best models can, `page` where it is written.
    """

    name: str
    dialect: str
    base_url: str
    key_variable: str | None
    url_variable: str
    price_provider: str | None = None
    models: tuple[Model, ...] = ()
    more_keys: tuple[str, ...] = ()
    identity: str | None = None
    speaks: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    quirks: tuple[str, ...] = ()
    offers: tuple[str, ...] = FULL_REASONING
    page: str = ""

    @property
    def variables(self) -> set[str]:
        """Every variable of the environment that changes this row."""
        named = {self.key_variable or "", self.url_variable, *self.more_keys}
        for text in (self.base_url, *self.options.values()):
            for names in _VARIABLE.findall(text):
                named.update(names.split("|"))
        return named - {""}


def fill(text: str, environment: Mapping[str, str]) -> str | None:
    """Return a text with its variables' values, None when one is not set."""
    missing = []

    def value(match: re.Match[str]) -> str:
        for name in match[1].split("|"):
            if environment.get(name):
                return environment[name].rstrip("/")
        missing.append(match[1])
        return ""

    filled = _VARIABLE.sub(value, text)
    return None if missing else filled


GEMINI_MODELS = (
    Model("gemini-2.5-flash-lite", 1_048_576, 65_536, FULL_REASONING),
    Model("gemini-2.5-flash", 1_048_576, 65_536, FULL_REASONING),
    Model("gemini-2.5-pro", 1_048_576, 65_536, FULL_REASONING),
    Model("gemini-3.8-flash", 1_048_576, 65_536, FULL_REASONING),
    Model("gemini-embedding-001", 2_048, capabilities=("embeddings",)),
)

VENDORS = (
    Vendor(
        "openai",
        "openai",
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "openai",
        (
            Model("gpt-4o-mini", 128_000, 16_384, FULL),
            Model("gpt-4o", 128_000, 16_384, FULL),
            Model("gpt-4.1-nano", 1_047_576, 32_768, FULL),
            Model("gpt-4.1-mini", 1_047_576, 32_768, FULL),
            Model("gpt-4.1", 1_047_576, 32_768, FULL),
            Model("text-embedding-3-small", 8_192, capabilities=("embeddings",)),
            Model("text-embedding-3-large", 8_192, capabilities=("embeddings",)),
            Model("gpt-image-1", capabilities=("images",)),
            Model("gpt-4o-mini-tts", capabilities=("speech",)),
            Model("tts-1", capabilities=("speech",)),
            Model("gpt-4o-transcribe", capabilities=("transcription",)),
            Model("whisper-1", capabilities=("transcription",)),
            Model("omni-moderation-latest", capabilities=("moderation",)),
        ),
        speaks=("openai_responses", "openai_completions"),
        page="https://platform.openai.com/docs/api-reference/chat",
    ),
    Vendor(
        "anthropic",
        "anthropic",
        "https://api.anthropic.com",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_BASE_URL",
        "anthropic",
        (
            Model("claude-haiku-4-5", 200_000, 64_000, FULL_REASONING),
            Model("claude-sonnet-4-5", 200_000, 64_000, FULL_REASONING),
            Model("claude-opus-4-5", 200_000, 64_000, FULL_REASONING),
        ),
        page="https://docs.anthropic.com/en/api/messages",
    ),
    Vendor(
        # Its models are the deployments of the resource: their names are the operator's.
        "azure",
        "openai",
        "{AZURE_OPENAI_ENDPOINT}/openai/v1",
        "AZURE_OPENAI_API_KEY",
        "AZURE_OPENAI_BASE_URL",
        "azure",
        identity="azure",
        speaks=("openai_responses",),
        options={"auth": "api-key"},
        page="https://learn.microsoft.com/azure/foundry/openai/api-version-lifecycle",
    ),
    Vendor(
        "azure-deployments",
        "openai",
        "{AZURE_OPENAI_ENDPOINT}/openai/deployments/{model}",
        "AZURE_OPENAI_API_KEY",
        "AZURE_OPENAI_DEPLOYMENTS_URL",
        "azure",
        identity="azure",
        options={
            "auth": "api-key",
            "query": "api-version={OPENAI_API_VERSION}",
            "probe": "refusal",
        },
        page="https://learn.microsoft.com/azure/foundry/openai/reference",
    ),
    Vendor(
        "bedrock",
        "bedrock",
        "https://bedrock-runtime.{AWS_REGION|AWS_DEFAULT_REGION}.amazonaws.com",
        "AWS_BEARER_TOKEN_BEDROCK",
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME",
        "aws",
        (
            Model("amazon.nova-micro-v1:0", 128_000, 10_000, PLAIN),
            Model("amazon.nova-lite-v1:0", 300_000, 10_000, (*PLAIN, "vision")),
            Model("amazon.nova-pro-v1:0", 300_000, 10_000, (*PLAIN, "vision")),
            Model("amazon.titan-embed-text-v2:0", 8_192, capabilities=("embeddings",)),
            Model("cohere.embed-v4:0", 128_000, capabilities=("embeddings",)),
        ),
        identity="aws",
        options={"auth": "aws", "region": "{AWS_REGION|AWS_DEFAULT_REGION}"},
        page="https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html",
    ),
    Vendor(
        "gemini",
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta",
        "GEMINI_API_KEY",
        "GEMINI_BASE_URL",
        "google",
        GEMINI_MODELS,
        more_keys=("GOOGLE_API_KEY",),
        page="https://ai.google.dev/api/generate-content",
    ),
    Vendor(
        # Its key is the text of a service account's key file.
        "vertex",
        "gemini",
        "https://{GOOGLE_CLOUD_LOCATION}-aiplatform.googleapis.com/v1/projects/"
        "{GOOGLE_CLOUD_PROJECT}/locations/{GOOGLE_CLOUD_LOCATION}/publishers/google",
        "GOOGLE_CREDENTIALS",
        "VERTEX_BASE_URL",
        "google",
        (*GEMINI_MODELS, Model("text-embedding-005", 2_048, capabilities=("embeddings",))),
        identity="google",
        options={"auth": "google", "embeddings": "vertex"},
        page="https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference",
    ),
    Vendor(
        "cohere",
        "cohere",
        "https://api.cohere.com",
        "CO_API_KEY",
        "CO_API_URL",
        "cohere",
        (
            Model("command-a-03-2025", 256_000, 8_192, STRUCTURED),
            Model("command-r7b-12-2024", 128_000, 4_096, STRUCTURED),
            Model("command-a-reasoning-08-2025", 256_000, 32_768, REASONING),
            Model("embed-v4.0", 128_000, capabilities=("embeddings",)),
            Model("rerank-v3.5", 4_096, capabilities=("rerank",)),
        ),
        more_keys=("COHERE_API_KEY",),
        page="https://docs.cohere.com/reference/chat",
    ),
    Vendor(
        "mistral",
        "openai",
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        "MISTRAL_BASE_URL",
        "mistral",
        (
            Model("mistral-small-latest", 128_000, None, FULL),
            Model("mistral-large-latest", 128_000, None, FULL),
        ),
        quirks=(
            "max_tokens",
            "no_stream_options",
            "system_role",
            "random_seed",
            "short_tool_ids",
            "no_thoughts",
            "drop:user",
            "drop:logit_bias",
            "drop:store",
            "drop:verbosity",
            "drop:safety_identifier",
        ),
        page="https://docs.mistral.ai/api",
    ),
    Vendor(
        "groq",
        "openai",
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
        "GROQ_BASE_URL",
        "groq",
        (
            Model("llama-3.3-70b-versatile", 131_072, 32_768, PLAIN),
            Model("openai/gpt-oss-120b", 131_072, 65_536, REASONING),
            Model("openai/gpt-oss-20b", 131_072, 65_536, REASONING),
        ),
        quirks=(
            "drop:logprobs",
            "drop:top_logprobs",
            "drop:logit_bias",
            "no_names",
            "reasoning_field",
        ),
        speaks=("openai_responses",),
        page="https://console.groq.com/docs/openai",
    ),
    Vendor(
        "together",
        "openai",
        "https://api.together.xyz/v1",
        "TOGETHER_API_KEY",
        "TOGETHER_BASE_URL",
        "together",
        (
            Model("meta-llama/Llama-3.3-70B-Instruct-Turbo", 131_072, None, STRUCTURED),
            Model("openai/gpt-oss-120b", 131_072, None, REASONING),
        ),
        quirks=("max_tokens", "system_role"),
        page="https://docs.together.ai/docs/openai-api-compatibility",
    ),
    Vendor(
        "fireworks",
        "openai",
        "https://api.fireworks.ai/inference/v1",
        "FIREWORKS_API_KEY",
        "FIREWORKS_BASE_URL",
        "fireworks",
        (Model("accounts/fireworks/models/gpt-oss-120b", 131_072, None, REASONING),),
        quirks=("max_tokens", "system_role"),
        page="https://docs.fireworks.ai/tools-sdks/openai-compatibility",
    ),
    Vendor(
        "deepseek",
        "openai",
        "https://api.deepseek.com/v1",
        "DEEPSEEK_API_KEY",
        "DEEPSEEK_BASE_URL",
        "deepseek",
        (
            Model("deepseek-v4-flash", 1_000_000, None, (*PLAIN, "reasoning")),
            Model("deepseek-v4-pro", 1_000_000, None, (*PLAIN, "reasoning")),
        ),
        quirks=("max_tokens", "system_role", "json_object", "drop:parallel_tool_calls"),
        offers=(*PLAIN, "reasoning"),
        page="https://api-docs.deepseek.com/api/create-chat-completion",
    ),
    Vendor(
        "xai",
        "openai",
        "https://api.x.ai/v1",
        "XAI_API_KEY",
        "XAI_BASE_URL",
        "x-ai",
        (Model("grok-4.3", 1_000_000, None, FULL_REASONING),),
        speaks=("openai_responses",),
        page="https://docs.x.ai/docs/api-reference",
    ),
    Vendor(
        "openrouter",
        "openai",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        "OPENROUTER_BASE_URL",
        "openrouter",
        speaks=("openai_responses",),
        options={"probe": "/key"},  # its list of models is open to everybody
        page="https://openrouter.ai/docs/api-reference/overview",
    ),
    Vendor(
        "perplexity",
        "openai",
        "https://api.perplexity.ai",
        "PERPLEXITY_API_KEY",
        "PERPLEXITY_BASE_URL",
        "perplexity",
        (
            Model("sonar", 128_000, None, ("chat", "stream", "structured", "vision")),
            Model("sonar-pro", 200_000, 8_000, ("chat", "stream", "structured", "vision")),
        ),
        options={"probe": "refusal"},
        quirks=("max_tokens", "system_role", "alternate_turns"),
        offers=("chat", "stream", "structured", "vision"),
        page="https://docs.perplexity.ai/guides/chat-completions-guide",
    ),
    Vendor(
        "huggingface",
        "openai",
        "https://router.huggingface.co/v1",
        "HF_TOKEN",
        "HF_BASE_URL",
        options={"probe": "refusal"},
        quirks=("max_tokens", "system_role"),
        page="https://huggingface.co/docs/inference-providers/tasks/chat-completion",
    ),
    Vendor(
        "nvidia",
        "openai",
        "https://integrate.api.nvidia.com/v1",
        "NVIDIA_API_KEY",
        "NVIDIA_BASE_URL",
        options={"probe": "refusal"},
        quirks=("max_tokens", "system_role"),
        page="https://docs.nvidia.com/nim/large-language-models/latest/api-reference.html",
    ),
    Vendor(
        "ollama",
        "openai",
        "http://127.0.0.1:11434/v1",
        None,
        "OLLAMA_BASE_URL",
        quirks=("max_tokens", "system_role"),
        page="https://docs.ollama.com/api/openai-compatibility",
    ),
    Vendor(
        "vllm",
        "openai",
        "http://127.0.0.1:8000/v1",
        None,
        "VLLM_BASE_URL",
        speaks=("openai_responses", "openai_completions"),
        page="https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
    ),
    Vendor(
        "llamacpp",
        "openai",
        "http://127.0.0.1:8080/v1",
        None,
        "LLAMACPP_BASE_URL",
        quirks=("max_tokens", "system_role"),
        page="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
    ),
    Vendor(
        "lmstudio",
        "openai",
        "http://127.0.0.1:1234/v1",
        None,
        "LMSTUDIO_BASE_URL",
        quirks=("max_tokens", "system_role"),
        page="https://lmstudio.ai/docs/app/api/endpoints/openai",
    ),
)

SELF_HOSTED = frozenset(vendor.name for vendor in VENDORS if vendor.key_variable is None)
"""Servers that one runs oneself: what they answer costs nothing unless somebody prices it."""
