"""One tree of errors: each class has its HTTP status, stable code, and what the user should do."""

from __future__ import annotations

from typing import Any, ClassVar


class WeirError(Exception):
    """Root of every error that a user may see.

    `message` says what happened, `action` what to do about it; neither holds prompt text or
    secrets. `retry_after_seconds` is set when waiting helps: to `wait_s` where nobody knows better.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False
    wait_s: ClassVar[float | None] = None
    action: ClassVar[str] = "Report the request id to the operator of this gateway."

    def __init__(
        self,
        message: str,
        *,
        action: str | None = None,
        details: list[str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.advice = action or self.action
        self.details = details or []
        wait_s = self.wait_s if retry_after_seconds is None else retry_after_seconds
        self.retry_after_seconds = wait_s

    def told(self, request_id: str) -> dict[str, Any]:
        """Return it as our own endpoints tell it (GW-16): no stack, secret or prompt text."""
        return {
            "code": self.code,
            "message": self.message,
            "type": self.type,
            "action": self.advice,
            "details": self.details,
            "request_id": request_id,
            "retryable": self.retryable,
            "retry_after_seconds": self.retry_after_seconds,
        }


# --- the caller's side ---------------------------------------------------------------------


class InvalidRequest(WeirError):
    status = 400
    code = "invalid_request"
    type = "invalid_request_error"
    action = "Correct the request as the message says and send it again."


class ValidationFailed(InvalidRequest):
    status = 422
    code = "validation_failed"
    action = "Correct every field listed in details."


class GuardrailBlocked(InvalidRequest):
    """A guardrail refused the request, or what the model answered."""

    code = "guardrail_blocked"
    type = "guardrail_error"
    action = "Take out what the details name; the operator sets the guardrails of a route."


class PayloadTooLarge(InvalidRequest):
    status = 413
    code = "payload_too_large"
    action = "Send a smaller body, or pass large files by reference."


class RequestTimeout(InvalidRequest):
    status = 408
    code = "request_timeout"
    retryable = True
    action = "Send the whole request without long pauses."


class HeadersTooLarge(InvalidRequest):
    status = 431
    code = "headers_too_large"
    action = "Send fewer or shorter headers, and a shorter address."


class NotFound(WeirError):
    status = 404
    code = "not_found"
    type = "invalid_request_error"
    action = "Check the path and the identifier."


class ModelNotFound(NotFound):
    code = "model_not_found"
    action = "List the models with GET /v1/models, or name a target as provider/model."


class AuthenticationFailed(WeirError):
    status = 401
    code = "authentication_failed"
    type = "authentication_error"
    action = "Send a valid key as 'Authorization: Bearer …', 'x-api-key' or 'api-key'."


class PermissionDenied(WeirError):
    status = 403
    code = "permission_denied"
    type = "permission_error"
    action = "Use a key with the needed scope, or ask an administrator for it."


class RateLimited(WeirError):
    status = 429
    code = "rate_limited"
    type = "rate_limit_error"
    retryable = True
    action = "Wait for the time in Retry-After, then try again."


class BudgetExceeded(WeirError):
    status = 402
    code = "budget_exceeded"
    type = "budget_error"
    action = "Raise the budget, or wait for its next period."


class Conflict(WeirError):
    status = 409
    code = "version_conflict"
    type = "conflict_error"
    action = "Read the current version and send the command again with it."


class IdempotencyConflict(Conflict):
    """Another request came under this key, or its run has not ended, or left no answer."""

    code = "idempotency_conflict"
    action = "Send another Idempotency-Key, or the same request again later."


class IdempotencyUnrepeatable(IdempotencyConflict):
    """The request ran under this key and was answered; the answer is too large to be kept, or was
    never kept at all.
    """

    code = "idempotency_unrepeatable"
    action = "Send another Idempotency-Key, knowing that the request is then billed once more."


# --- the provider's side -------------------------------------------------------------------


class UpstreamError(WeirError):
    """A provider failed. `error_class` is the bounded word that the log and metrics carry."""

    status = 502
    code = "upstream_error"
    type = "api_error"
    retryable = True
    error_class: ClassVar[str] = "server"
    action = "Try again; the gateway has already tried the other targets of the route."


class UpstreamOverloaded(UpstreamError):
    """The provider has too much to do, and says so (503, Anthropic's 529)."""

    status = 503
    code = "upstream_overloaded"
    type = "overloaded_error"
    action = "Try again shortly, or name a route with several providers."


class UpstreamForbidden(UpstreamError):
    """The provider knows the gateway's key and does not let its account do this: no key's fault."""

    status = 403
    code = "upstream_forbidden"
    type = "permission_error"
    error_class = "permission"
    retryable = False
    action = "Name another model, or have the operator get access to this one from the provider."


class UpstreamAuthentication(UpstreamError):
    code = "upstream_authentication"
    error_class = "authentication"
    retryable = False
    action = "Set a valid key for this provider (see `weir doctor`)."


class UpstreamRateLimited(UpstreamError):
    status = 429
    code = "upstream_rate_limited"
    error_class = "rate_limit"


class UpstreamQuota(UpstreamError):
    status = 429
    code = "upstream_quota"
    error_class = "quota"
    retryable = False
    action = "Raise the quota at the provider, or add another target to the route."


class UpstreamContextTooLong(UpstreamError):
    status = 400
    code = "context_length_exceeded"
    error_class = "context"
    type = "invalid_request_error"
    retryable = False
    action = "Shorten the prompt, or choose a model with a longer context."


class UpstreamContentFiltered(UpstreamError):
    status = 400
    code = "content_filtered"
    error_class = "filter"
    type = "invalid_request_error"
    retryable = False
    action = "Rephrase the prompt; the provider refused it."


class UpstreamRejected(UpstreamError):
    """The provider says that the request itself is wrong: no other target would do better."""

    status = 400
    code = "upstream_rejected"
    error_class = "request"
    type = "invalid_request_error"
    retryable = False
    action = "Correct the request as the provider's message says."


class UpstreamModelMissing(UpstreamError):
    """The provider does not have the model that the operator listed: other targets may do."""

    code = "upstream_model_missing"
    error_class = "model"
    retryable = False
    action = "Have the operator correct the target: its provider does not have this model."


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"
    error_class = "timeout"


class UpstreamNetwork(UpstreamError):
    code = "upstream_network"
    error_class = "network"


class UpstreamProtocol(UpstreamError):
    """The provider's bytes are not what its protocol promises (bad frame, missing end)."""

    code = "upstream_protocol"
    error_class = "protocol"


# --- our own side --------------------------------------------------------------------------


class Unavailable(WeirError):
    status = 503
    code = "unavailable"
    type = "overloaded_error"
    retryable = True
    wait_s = 1.0
    action = "Try again shortly."


class NoTargetAvailable(Unavailable):
    code = "no_target_available"
    action = "Wait for the time in Retry-After; see GET /status for the state of the targets."


class OutboxFull(Unavailable):
    code = "outbox_full"
    action = "Free disk space or restore the broker; nothing accepted so far is lost."


class Overloaded(Unavailable):
    """The worker has as much to do as it can do well."""

    code = "overloaded"
    action = "Wait for the time in Retry-After; add gateway workers if it happens often."


class StateTooOld(Unavailable):
    """Kafka has been away for so long that nobody knows which keys are still good."""

    code = "state_too_old"
    action = "Restore the broker (`weir status`); the gateway serves again at once."


class BrokerUnavailable(Unavailable):
    code = "broker_unavailable"
    action = "Start the broker again (`weir status`); the command was not carried out."


class ConfigurationError(WeirError):
    """A setting of the operator's keeps this from being served, and nothing of the caller's."""

    status = 503
    wait_s = 30.0
    code = "configuration_error"
    action = "Correct the setting named in the message and start again."


# --- the log -------------------------------------------------------------------------------


class LogError(WeirError):
    code = "log_error"
    action = "See `weir doctor`; nothing was skipped or reset."


class UnknownSchema(LogError):
    code = "unknown_schema"
    action = "Run a version of Weir that knows this schema; the record is kept as it is."


class CorruptRecord(LogError):
    code = "corrupt_record"
    action = "The record went to weir.dead-letters; correct its producer."


class LogTruncated(LogError):
    """The log ends before, or begins after, a stored position."""

    code = "log_truncated"
    action = "Restore the topic, or rebuild this consumer from the archive with `weir replay`."


class WrongLog(LogError):
    """A stored position belongs to another cluster or to a topic that was created anew."""

    code = "wrong_log"
    action = "Point Weir at the cluster it was used with, or rebuild with `weir replay`."


class ContentErased(LogError):
    """The data key is destroyed: the text cannot be read by anyone any more."""

    status = 410
    code = "content_erased"
    action = "Nothing: the person's content was erased on request."


# --- datasets, models, evaluation ------------------------------------------------------------


class DatasetError(WeirError):
    status = 422
    code = "dataset_error"
    type = "invalid_request_error"
    action = "Correct the rows listed in details."


class DatasetValidationError(DatasetError):
    code = "dataset_validation"


class DatasetFormatError(DatasetError):
    code = "dataset_format"


class TokenizationError(DatasetError):
    code = "tokenization"


class AnonymizationError(DatasetError):
    code = "anonymization"


class ModelError(WeirError):
    code = "model_error"
    action = "See the training run's steps for the cause."


class ModelLoadingError(ModelError):
    status = 503
    wait_s = 5.0
    code = "model_loading"


class ModelTrainingError(ModelError):
    code = "model_training"


class ModelSavingError(ModelError):
    code = "model_saving"


class EvaluationError(WeirError):
    code = "evaluation_error"
    action = "See the evaluation's report for the cause."


class MetricCalculationError(EvaluationError):
    code = "metric_calculation"


class EvaluationTimeout(EvaluationError):
    code = "evaluation_timeout"
