"""The tables of alert rules and channels: in `weir.toml`, apply files and the administration API."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from infra.tables import Ratio, Table

Severity = Literal["info", "warning", "error", "critical"]
_SECRETS_OF = {
    "log": set[str](),
    "webhook": {"secret_env", "secret_file"},
    "chat": set[str](),
    "email": {"secret_env", "secret_file"},
}


def _one_line(text: str) -> str:
    if any(sign in text for sign in "\r\n\0"):
        raise ValueError("one line, please")
    return text


def _address(url: str) -> str:
    parts = urlsplit(_one_line(url))
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("an address is http://… or https://…")
    return url


Line = Annotated[str, AfterValidator(_one_line)]
Place = Annotated[str, Field(min_length=1), AfterValidator(_one_line)]
"""The name of a variable or file."""


class AlertRuleTable(Table):
    """`[alert_rules.ID]`: raises an alert when a figure of the traffic crosses a threshold (COST-04)."""

    name: str | None = Field(default=None, description="for people")
    scope: Literal[
        "global",
        "key",
        "team",
        "project",
        "cost_center",
        "organization",
        "provider",
        "target",
        "model",
        "user",
        "task",
    ] = Field(default="global", description="whose traffic")
    scope_id: str | None = Field(
        default=None, description="which one; each of them by itself when null", examples=["search"]
    )
    metric: Literal["cost_usd", "tokens", "calls", "failures", "failure_rate", "latency_ms"] = (
        Field(default="cost_usd", description="what is watched", examples=["cost_usd"])
    )
    comparator: Literal["gt", "gte", "lt", "lte"] = Field(
        default="gt", description="greater or less than the threshold, or equal too"
    )
    threshold: float = Field(ge=0, description="in the metric's unit", examples=[5.0])
    window: Literal["1m", "5m", "15m", "1h", "6h", "24h", "day", "month"] = Field(
        default="1h", description="back from now, or the UTC day or month"
    )
    channels: list[str] = Field(default=[], description="who is told; all channels when empty")
    cooldown_s: int = Field(
        default=0, ge=0, le=31 * 86_400, description="seconds after it is over before the next"
    )
    hysteresis: Ratio = Field(
        default=0.05, description="over when beyond the threshold by this share of it"
    )
    severity: Severity = Field(default="warning", description="how bad it is")
    enabled: bool = Field(default=True, description="false raises nothing")

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if self.scope == "global" and self.scope_id is not None:
            raise ValueError("scope_id: the scope global has none")
        if self.scope == "user" and self.window == "month":
            raise ValueError("window: single users are known for a day; a month has a budget")
        return self


class AlertChannelTable(Table):
    """`[alert_channels.NAME]`: where alerts are told."""

    kind: Literal["log", "webhook", "chat", "email"] = Field(
        description="the log of control, a signed webhook, a Slack-compatible webhook, or SMTP"
    )
    url: Annotated[str, AfterValidator(_address)] | None = Field(
        default=None,
        description="of a webhook or chat",
        examples=["https://hooks.example.com/weir"],
    )
    url_env: Place | None = Field(default=None, description="variable that holds the url")
    url_file: Place | None = Field(default=None, description="file that holds the url")
    secret_env: Place | None = Field(
        default=None, description="variable with the webhook's signing key or the mail password"
    )
    secret_file: Place | None = Field(default=None, description="file with the same")
    host: Line | None = Field(default=None, description="mail server")
    port: int | None = Field(default=None, ge=1, le=65_535, description="587 unless given")
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="of the connection to the mail server"
    )
    username: Line | None = Field(default=None, description="at the mail server")
    sender: Line | None = Field(default=None, description="mail address", examples=["weir@x.org"])
    recipients: list[Line] = Field(default=[], max_length=50, description="mail addresses")
    severity: Severity = Field(default="info", description="takes alerts at least so bad")
    alert_types: list[str] = Field(
        default=[], description="patterns (*) of the types that it takes; all when empty"
    )
    resolved: bool = Field(default=True, description="whether it is told when an alert is over")
    enabled: bool = Field(default=True, description="false tells it nothing")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        urls = [it for it in (self.url, self.url_env, self.url_file) if it is not None]
        if self.kind in {"webhook", "chat"}:
            if len(urls) != 1:
                raise ValueError("give one of url, url_env and url_file")
        elif urls:
            raise ValueError(f"url: a channel of kind {self.kind} has none")
        if self.kind == "email" and not (self.host and self.sender and self.recipients):
            raise ValueError("email needs host, sender and recipients")
        if self.secret_env and self.secret_file:
            raise ValueError("give secret_env or secret_file")
        given = {name for name in ("secret_env", "secret_file") if getattr(self, name)}
        if given - _SECRETS_OF[self.kind]:
            raise ValueError(f"{min(given)}: a channel of kind {self.kind} has none")
        return self
