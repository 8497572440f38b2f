"""The vendors that speak OpenAI's chat with words of their own: rows, written from their pages."""

import re
from dataclasses import dataclass
from typing import Literal

from infra.sandbox.models import Model

ANY_ROLE = frozenset(["developer", "system", "user", "assistant", "tool"])
FOUR_ROLES = ANY_ROLE - {"developer"}
OPENAI_FORMATS = frozenset(["text", "json_object", "json_schema"])
NINE = re.compile(r"[a-zA-Z0-9]{9}")


@dataclass(frozen=True)
class Vendor:
    """What a vendor does differently from OpenAI; `page` says so."""

    page: str
    thoughts: Literal["hidden", "reasoning_content", "reasoning", "parts"] = "hidden"
    """Where an answer shows what the model thought."""
    usage: Literal["asked", "last"] = "asked"
    """A stream's usage: in a chunk of its own when asked for, or always with the last one."""
    extra: Literal["", "azure", "groq", "deepseek", "openrouter", "perplexity"] = ""
    """Members of answers that only this vendor has."""
    errors: Literal["openai", "azure", "mistral", "text", "detail", "code", "html"] = "openai"
    """The form of error bodies."""
    refuses: frozenset[str] = frozenset()
    """Parameters that are answered with an error."""
    names: tuple[tuple[str, str], ...] = ()
    """Its own names of parameters, and OpenAI's for the same."""
    refused_members: frozenset[str] = frozenset()
    """Members of messages that are answered with an error."""
    roles: frozenset[str] = ANY_ROLE
    formats: frozenset[str] = OPENAI_FORMATS
    tool_ids: re.Pattern[str] | None = None
    alternates: bool = False
    keyless: bool = False
    completes_chats: bool = False
    """Whether its chat models take plain completions too."""
    models: tuple[Model, ...] = ()


def _model(name: str, context: int = 131_072, *, reasoning: bool = False) -> Model:
    return Model(
        name, "openai", context_tokens=context, output_tokens_max=16_384, reasoning=reasoning
    )


_GPT_OSS = _model("openai/gpt-oss-120b", reasoning=True)
_OLD_LIMIT = frozenset(["max_completion_tokens"])
_LLAMA = _model("meta-llama/Llama-3.3-70B-Instruct-Turbo")

VENDORS: dict[str, Vendor] = {
    "azure": Vendor(
        "https://learn.microsoft.com/azure/foundry/openai/reference",
        extra="azure",
        errors="azure",
    ),
    "azure-deployments": Vendor(
        "https://learn.microsoft.com/azure/foundry/openai/reference",
        extra="azure",
        errors="azure",
    ),
    "mistral": Vendor(
        "https://docs.mistral.ai/api",
        thoughts="parts",
        usage="last",
        errors="mistral",
        refuses=_OLD_LIMIT
        | {
            "seed",
            "stream_options",
            "user",
            "logit_bias",
            "store",
            "verbosity",
            "safety_identifier",
        },
        names=(("random_seed", "seed"),),
        refused_members=frozenset(["reasoning_content", "reasoning", "reasoning_details"]),
        roles=FOUR_ROLES,
        tool_ids=NINE,
        models=(
            _model("mistral-small-latest"),
            _model("mistral-large-latest"),
            _model("ministral-8b-latest"),
            _model("magistral-medium-latest", reasoning=True),
        ),
    ),
    "groq": Vendor(
        "https://console.groq.com/docs/openai",
        thoughts="reasoning",
        extra="groq",
        refuses=frozenset(["logprobs", "top_logprobs", "logit_bias"]),
        refused_members=frozenset(["name", "reasoning_content", "reasoning_details"]),
        models=(
            _model("llama-3.3-70b-versatile"),
            _GPT_OSS,
            _model("openai/gpt-oss-20b", reasoning=True),
        ),
    ),
    "together": Vendor(
        "https://docs.together.ai/docs/openai-api-compatibility",
        thoughts="reasoning",
        usage="last",
        refuses=_OLD_LIMIT,
        roles=FOUR_ROLES,
        models=(_LLAMA, _GPT_OSS),
    ),
    "fireworks": Vendor(
        "https://docs.fireworks.ai/tools-sdks/openai-compatibility",
        thoughts="reasoning_content",
        usage="last",
        roles=FOUR_ROLES,
        models=(_model("accounts/fireworks/models/gpt-oss-120b", reasoning=True),),
    ),
    "deepseek": Vendor(
        "https://api-docs.deepseek.com/api/create-chat-completion",
        thoughts="reasoning_content",
        extra="deepseek",
        refuses=_OLD_LIMIT | {"parallel_tool_calls"},
        roles=FOUR_ROLES,
        formats=frozenset(["text", "json_object"]),
        models=(
            _model("deepseek-v4-flash", 1_000_000),
            _model("deepseek-v4-pro", 1_000_000, reasoning=True),
        ),
    ),
    "xai": Vendor(
        "https://docs.x.ai/docs/api-reference",
        usage="last",
        errors="text",
        models=(_model("grok-4.3", 1_000_000),),
    ),
    "openrouter": Vendor(
        "https://openrouter.ai/docs/api-reference/overview",
        thoughts="reasoning",
        usage="last",
        extra="openrouter",
        errors="code",
        models=(_model("meta-llama/llama-3.3-70b-instruct"), _GPT_OSS),
    ),
    "perplexity": Vendor(
        "https://docs.perplexity.ai/guides/chat-completions-guide",
        usage="last",
        extra="perplexity",
        errors="html",
        refuses=_OLD_LIMIT | {"tools"},
        roles=FOUR_ROLES,
        alternates=True,
        models=(_model("sonar"), _model("sonar-pro", 200_000)),
    ),
    "huggingface": Vendor(
        "https://huggingface.co/docs/inference-providers/tasks/chat-completion",
        errors="text",
        roles=FOUR_ROLES,
        models=(_model("meta-llama/Llama-3.3-70B-Instruct"),),
    ),
    "nvidia": Vendor(
        "https://docs.nvidia.com/nim/large-language-models/latest/api-reference.html",
        thoughts="reasoning_content",
        errors="detail",
        refuses=_OLD_LIMIT,
        roles=FOUR_ROLES,
        models=(_model("meta/llama-3.3-70b-instruct"),),
    ),
    "ollama": Vendor(
        "https://docs.ollama.com/api/openai-compatibility",
        thoughts="reasoning",
        keyless=True,
        models=(_model("llama3.2"), _model("gpt-oss:20b", reasoning=True)),
    ),
    "vllm": Vendor(
        "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
        thoughts="reasoning_content",
        keyless=True,
        completes_chats=True,
        models=(
            _model("meta-llama/Llama-3.1-8B-Instruct"),
            _model("Qwen/Qwen3-8B", reasoning=True),
        ),
    ),
    "llamacpp": Vendor(
        "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        thoughts="reasoning_content",
        errors="code",
        keyless=True,
        models=(_model("local.gguf"),),
    ),
    "lmstudio": Vendor(
        "https://lmstudio.ai/docs/app/api/endpoints/openai",
        errors="text",
        keyless=True,
        models=(_model("qwen2.5-7b-instruct"),),
    ),
}
MODELS = tuple(
    {model.name: model for vendor in VENDORS.values() for model in vendor.models}.values()
)
