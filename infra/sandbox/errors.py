"""What a vendor's API refuses, in neutral words; each dialect writes it in its own body."""

from typing import Literal

ErrorKind = Literal[
    "authentication",
    "invalid_request",
    "not_found",
    "rate_limit",
    "server",
    "overloaded",
    "too_large",
]


class ApiError(Exception):
    """An answer other than 200: status, kind, and OpenAI's `param` and `code` where they exist."""

    def __init__(
        self,
        status: int,
        kind: ErrorKind,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that the vendor answers with 400."""
    return ApiError(400, "invalid_request", message, param=param, code=code)
