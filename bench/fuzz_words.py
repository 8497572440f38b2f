"""What exists and what makes sense: values that a fuzzed case could hardly guess.

A case without them is refused at the door; half of the cases are drawn with them, so that what lies
behind it is met too: other people's words inside an otherwise fitting request.
"""

from __future__ import annotations

from typing import Any

from bench.fuzz_cases import BODY
from bench.fuzz_garden import PLANTED
from bench.fuzz_judge import CHANGED, FAILING

MODELS = ("a/gpt-4.1-nano", "b/gpt-4.1-nano", "gpt-4.1-nano", "auto", CHANGED, FAILING)
SLOW = "a/gpt-4.1-mini"
"""Takes its time: batches of it run when cases cancel them."""
ADMIN = "/api/v1/admin"
FITTING = {
    "embed": "openai/text-embedding-3-small",
    "images": "openai/gpt-image-1",
    "speech": "openai/tts-1",
    "audio/trans": "openai/whisper-1",
    "moderations": "openai/omni-moderation-latest",
    "rerank": "ranking/rerank-v3.5",
}
"""By a word of the path the model that it needs, where it is no chat."""
_ASK = "Where is the water?"
_TURNS = [
    [{"role": "user", "content": _ASK}],
    [{"role": "user", "content": "😀 \x00 \u202e" * 3}],
    [{"role": "user", "content": _ASK}, {"role": "assistant", "content": ""}],
    [],
]
_PARTS = [
    [{"role": "user", "parts": [{"text": _ASK}]}],
    [{"parts": [{"text": ""}, {"text": _ASK}]}],
]
_LENGTHS = [1, 16, 2**31 - 1]
CALLS: dict[str, list[Any]] = {
    "messages": _TURNS,
    "contents": _PARTS,
    "content": [_PARTS[0][0], _PARTS[1][0]],
    "prompt": [_ASK, " ", "\u202e" * 9],
    "prompts": [[_ASK], [{"prompt": _ASK}, {"prompt": 7}]],
    "input": [_ASK, [_ASK, ""]],
    "texts": [[_ASK]],
    "query": [_ASK],
    "documents": [["sea", "sand"], [_ASK] * 40],
    "max_tokens": _LENGTHS,
    "max_output_tokens": _LENGTHS,
    "temperature": [0.0, 1.0, 1.7],
    "n": [1, 2],
    "voice": ["alloy"],
    "input_type": ["search_query"],
    "embedding_types": [["float"], ["float", "int8"]],
    "purpose": ["batch", "user_data"],
    "completion_window": ["24h"],
    "endpoint": ["/v1/chat/completions"],
    "response_format": ["json", "text"],
}
"""Members of model calls, ordinary and odd."""
_QUERIES = ["SELECT count(*) FROM calls", "FROM costs LIMIT 3", "SHOW TABLES", "SELECT 1 / 0"]
PRICED = ("prices", "planted/model", {"input_usd_per_million": "1", "output_usd_per_million": "2"})
"""A price that cases may change; there are too many prices to look after."""
_BATCH = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
_EMBED = {"requests": [{"model": f"models/{FITTING['embed']}", "content": _PARTS[1][0]}]}
_WHOLE: dict[str, Any] = {
    "/generate": {"prompt": _ASK, "model_id": MODELS[0], "max_tokens": 8},
    "/generate/batch": {"prompts": [_ASK], "model_id": MODELS[0], "max_tokens": 8},
    "/routing/preview": {"prompt": _ASK, "model_id": "auto"},
    "/sql": {"query": _QUERIES[0]},
    "/config/apply": {"document": {"name": "fuzz"}, "dry_run": True},
    "/admin/keys": {"name": "made"},
    "/rotate": {},
    "/projections/{name}/replay": {"verify": True},
}
"""By the end of the path a body that is right as it stands."""
_TALK = {"model": "gpt-4.1-nano", "max_tokens": 8, "messages": _TURNS[0]}
_EXACTLY: dict[str, Any] = {
    "/api/ai/health": {"action": "enable_rule", "params": {"rule": "cost"}},
    "/v1/messages/batches": {
        "requests": [{"custom_id": "1", "params": {**_TALK, "model": MODELS[0]}}]
    },
    "/v1beta/models/{model}:batchEmbedContents": _EMBED,
    "/v1/models/{model}:batchEmbedContents": _EMBED,
}
_PASSED = "post /passthrough/{provider}/{path}"
_KINDS: dict[str, dict[str, list[Any]]] = {
    "providers": {"base_url": ["http://127.0.0.1:9/v1"], "dialect": ["openai", "cohere"]},
    "guardrails": {"kind": ["words", "pii"]},
    "routes": {"strategy": ["balanced", "weighted", "failover"]},
    "cost/budgets": {"daily_limit_usd": [0, 1, "0.5"], "scope": ["team", "key"]},
    "alerts/channels": {"kind": ["log"]},
}
"""Values without which an entity of a kind is refused."""


def known_words(
    document: dict[str, Any], made: dict[str, list[Any]]
) -> dict[str, dict[str, list[Any]]]:
    """Return for the beginnings of paths the values of parameters and members, for `with_hints`.

    `made` are ids that exist, by the names of their parameters.
    """
    made = dict(made)
    theirs = {"batch_id": made.pop("openai_batch_id"), "input_file_id": made["file_id"]}
    vendors = [f"files/{it}" for it in made.pop("vendors_file_id")]
    running, running_theirs = made.pop("running_id"), made.pop("openai_running_id")
    applied = [{"change_set_id": it, "dry_run": True} for it in made["change_set_id"]]
    everywhere = {"provider": ["a", "b", "failing"], **made}
    words: dict[str, dict[str, list[Any]]] = {
        path: {
            "model": models_of(path),
            **everywhere,
            **CALLS,
            **(theirs if path.startswith("/v1/batches") else {}),
        }
        for path in document["paths"]
    }
    words |= {
        "/api/v1/projections/": {"name": ["feedback"]},
        "post /v1/messages/batches/{batch_id}/cancel": {"batch_id": running},
        "post /v1/batches/{batch_id}/cancel": {"batch_id": running_theirs},
        f"post {ADMIN}/config/rollback": {BODY: applied},
        "post /v1/batches": {BODY: [{**_BATCH, "input_file_id": it} for it in made["file_id"]]},
        "/passthrough/": {"provider": ["a", "b", "openai"], "path": ["models", "files"]},
        "/api/v1/sql": {"query": _QUERIES},
        "/sql": {"query": _QUERIES},
    }
    for kind, name, table in (*PLANTED, PRICED):
        values = _KINDS.get(kind, {})
        words[f"{ADMIN}/{kind}/"] = {"entity_id": [name], "budget_id": [name], **values}
        words[f"{ADMIN}/{kind}"] = {"id": [f"{name}2"], **values}
        words[f"put {ADMIN}/{kind}/{{entity_id}}"] = {BODY: [table]}
        words[f"patch {ADMIN}/{kind}/{{entity_id}}"] = {BODY: [table]}
        words[f"post {ADMIN}/{kind}"] = {BODY: [{"id": f"{name}2", **table}]}
    words |= {f"post {path}": {BODY: [body]} for path, body in _EXACTLY.items()}
    words[f"patch {ADMIN}/keys/{{key_id}}"] = {BODY: [{"name": "renamed"}]}
    words[_PASSED] = {"provider": ["a"], "path": ["chat/completions"], BODY: [_TALK]}
    words["delete /passthrough/{provider}/{path}"] = {"provider": ["a"], "path": vendors}
    for ending, body in _WHOLE.items():
        words |= {f"post {path}": {BODY: [body]} for path in document["paths"] if _is(path, ending)}
    return words


def _is(path: str, ending: str) -> bool:
    return path.endswith(ending) and not path.startswith("/v1/")


def models_of(path: str) -> list[str]:
    """Return the models that cases of a path may name."""
    fitting = [model for word, model in FITTING.items() if word in path.lower()]
    return [*fitting, *MODELS]
