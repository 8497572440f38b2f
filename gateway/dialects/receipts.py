"""What a call came to, as JSON: in answers of our own, and at the end of a stream for those who ask.

Headers leave before a stream does; its cost is known when it has ended. Who sends ``x-weir-explain: 1``
gets it as a last event, of a kind that the vendor's own clients skip or pass on.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from gateway.dialects.neutral import Json, Receipt
from gateway.dialects.sse import write_frame

EVENT = "weir.receipt"
_encode = msgspec.json.encode


def facts_of(receipt: Receipt) -> Json:
    """Return a receipt as JSON."""
    usage = receipt.usage
    known = usage.input_tokens is not None and usage.output_tokens is not None
    total = (usage.input_tokens or 0) + (usage.output_tokens or 0) if known else None
    return {
        "model_id": receipt.target,
        "metrics": {
            "latency_ms": receipt.latency_ms,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": total,
        },
        "metadata": {
            "model_type": receipt.model_type,
            "provider": receipt.provider,
            "cost_usd": receipt.cost_usd,
            "request_id": receipt.request_id,
            "deployment_id": receipt.deployment_id,
            "route": receipt.route,
            "attempts": receipt.attempts,
            "cache_hit": receipt.cache_hit,
            "route_info": receipt.route_info() if receipt.route_info else None,
        },
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


def receipt_event(receipt: Receipt) -> bytes:
    """Return the event, nothing for who did not ask: clients of typed events skip a type unknown."""
    if not receipt.asked:
        return b""
    return write_frame(_encode({"type": EVENT, **facts_of(receipt)}), EVENT)


def receipt_chunk(receipt: Receipt, kind: str) -> bytes:
    """Return the same as a chunk without choices, as OpenAI's streams end with one for the usage."""
    if not receipt.asked:
        return b""
    chunk = {
        "id": receipt.request_id,
        "object": kind,
        "created": int(datetime.now(UTC).timestamp()),
    }
    return write_frame(
        _encode({**chunk, "model": receipt.model, "choices": [], "weir": facts_of(receipt)})
    )
