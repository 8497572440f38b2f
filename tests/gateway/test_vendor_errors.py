"""Every error of a vendor has one class, by status and by the vendor's own words."""

import json
from typing import Any

import pytest

from gateway.dialects.anthropic_messages import ANTHROPIC
from gateway.dialects.neutral import Dialect
from gateway.dialects.openai_chat import OPENAI
from schemas.errors import (
    UpstreamAuthentication,
    UpstreamContentFiltered,
    UpstreamContextTooLong,
    UpstreamError,
    UpstreamForbidden,
    UpstreamModelMissing,
    UpstreamOverloaded,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
)


@pytest.mark.req("PROV-07")
@pytest.mark.parametrize(
    ("dialect", "status", "body", "kind"),
    [
        (OPENAI, 401, {"error": {"message": "bad key"}}, UpstreamAuthentication),
        (OPENAI, 429, {"error": {"message": "slow"}}, UpstreamRateLimited),
        (OPENAI, 429, {"error": {"message": "q", "code": "insufficient_quota"}}, UpstreamQuota),
        (
            OPENAI,
            400,
            {"error": {"message": "m", "code": "context_length_exceeded"}},
            UpstreamContextTooLong,
        ),
        (
            OPENAI,
            400,
            {"error": {"message": "m", "code": "content_filter"}},
            UpstreamContentFiltered,
        ),
        (OPENAI, 400, {"error": {"message": "bad tool"}}, UpstreamRejected),
        (OPENAI, 404, {"error": "no such model"}, UpstreamModelMissing),
        (OPENAI, 404, {"error": {"message": "No such File object: f-1"}}, UpstreamRejected),
        (OPENAI, 404, None, UpstreamModelMissing),
        (OPENAI, 400, {"error": {"message": "Model Not Exist"}}, UpstreamModelMissing),
        (OPENAI, 400, {"error": {"message": "m", "code": "model_not_found"}}, UpstreamModelMissing),
        (OPENAI, 400, {"error": {"message": "this model takes no tools"}}, UpstreamRejected),
        (
            ANTHROPIC,
            404,
            {"error": {"type": "not_found_error", "message": "model: claude-0"}},
            UpstreamModelMissing,
        ),
        (OPENAI, 500, None, UpstreamError),
        (OPENAI, 504, None, UpstreamTimeout),
        (
            ANTHROPIC,
            529,
            {"error": {"type": "overloaded_error", "message": "m"}},
            UpstreamOverloaded,
        ),
        (
            ANTHROPIC,
            400,
            {"error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}},
            UpstreamContextTooLong,
        ),
        (
            ANTHROPIC,
            403,
            {"error": {"type": "permission_error", "message": "m"}},
            UpstreamForbidden,
        ),
        (ANTHROPIC, 400, {"error": {"type": "billing_error", "message": "m"}}, UpstreamQuota),
    ],
)
def test_vendor_errors_have_one_class(
    dialect: Dialect, status: int, body: Any, kind: type[UpstreamError]
) -> None:
    raw = b"<html>" if body is None else json.dumps(body).encode()
    error = dialect.read_error(status, {b"retry-after": b"7"}, raw)
    assert type(error) is kind
    if kind is UpstreamRateLimited:
        assert error.retry_after_seconds == 7
