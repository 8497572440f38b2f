"""The ways to people: log, signed webhook, chat, e-mail. Each raises DeliveryFailed.

A webhook is signed as Standard Webhooks 1.0 has it (standardwebhooks.com): HMAC-SHA256 over
``id.timestamp.body``; the id is that of the notification, so a repeat carries the same.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import smtplib
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime

import aiohttp
import msgspec

from gateway.upstream import read_secret
from infra.admin_desk import iso
from infra.alerting.delivery import DeliveryFailed
from infra.alerting.outstanding import Notification
from schemas.alerts import RESOLVED
from schemas.errors import ConfigurationError
from schemas.events.alerts import AlertChannelChanged
from schemas.events.operations import AlertChanged

_WHSEC = "whsec_"
_ANSWER_BYTES = 200
_SMTP_PORT = 587
_alerts = logging.getLogger("weir.alerts")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


async def send(channel: AlertChannelChanged, notification: Notification, timeout_s: float) -> None:
    """Tell one channel of one change. Raises DeliveryFailed."""
    try:
        if channel.kind == "log":
            _write(notification)
        elif channel.kind == "webhook":
            await _webhook(channel, notification, timeout_s)
        elif channel.kind == "chat":
            body = msgspec.json.encode({"text": chat_text(notification)})
            identity = {"idempotency-key": notification.notification_id}
            await _post(channel, body, identity, timeout_s)
        elif channel.kind == "email":
            message = mail(channel, notification)
            await asyncio.to_thread(_mail, channel, message, timeout_s)
        else:
            raise DeliveryFailed(f"this version knows no channel of the kind {channel.kind!r}")
    except ConfigurationError as error:
        raise DeliveryFailed(error.message) from error


def told(alert: AlertChanged) -> dict[str, object]:
    """An alert as it is told outside."""
    return {
        "id": alert.alert_id,
        "type": alert.alert_type,
        "severity": alert.severity,
        "scope": alert.scope,
        "status": alert.status,
        "message": alert.message,
        "value": alert.value,
        "threshold": alert.threshold,
        "opened_at": iso(alert.opened_at_us),
        "updated_at": iso(alert.occurred_at_us),
        "acknowledged_at": iso(alert.acknowledged_at_us),
        "acknowledged_by": alert.acknowledged_by,
        "resolved_at": iso(alert.resolved_at_us),
        "resolved_by": alert.resolved_by,
        "rule_id": alert.rule_id,
        "channels": alert.channels,
        "details": alert.details,
    }


def webhook_body(notification: Notification) -> bytes:
    """The JSON of a webhook."""
    alert = notification.alert
    kind = "resolved" if alert.status == RESOLVED else "opened"
    return msgspec.json.encode(
        {
            "id": notification.notification_id,
            "type": f"weir.alert.{kind}",
            "timestamp": iso(alert.occurred_at_us),
            "data": told(alert),
        }
    )


def signature(secret: str, notification_id: str, timestamp_s: int, body: bytes) -> str:
    """The header `webhook-signature`; a secret with ``whsec_`` is base64, any other taken as it is.

    Raises ConfigurationError for one that is no base64.
    """
    key = secret.encode()
    if secret.startswith(_WHSEC):
        try:
            key = base64.b64decode(secret.removeprefix(_WHSEC), validate=True)
        except ValueError as error:
            raise ConfigurationError("the signing key after whsec_ is not base64") from error
    signed = f"{notification_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


async def _webhook(
    channel: AlertChannelChanged, notification: Notification, timeout_s: float
) -> None:
    body, now_s = webhook_body(notification), int(time.time())
    headers = {
        "webhook-id": notification.notification_id,
        "webhook-timestamp": str(now_s),
        "idempotency-key": notification.notification_id,
    }
    secret = read_secret(channel.secret)
    if secret is not None:
        headers["webhook-signature"] = signature(secret, notification.notification_id, now_s, body)
    await _post(channel, body, headers, timeout_s)


async def _post(
    channel: AlertChannelChanged, body: bytes, headers: Mapping[str, str], timeout_s: float
) -> None:
    """POST JSON; anything but 2xx is a failure, a redirect too: a signature is for one receiver."""
    url = channel.url or read_secret(channel.url_secret)
    if url is None:
        raise DeliveryFailed(f"the channel {channel.name} has no url")
    limit = aiohttp.ClientTimeout(total=timeout_s)
    told_headers = {"content-type": "application/json", "user-agent": "weir", **headers}
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(url, data=body, headers=told_headers, allow_redirects=False) as answer,
        ):
            if not 200 <= answer.status < 300:
                said = await answer.content.read(_ANSWER_BYTES)
                text = said.decode("utf-8", "replace")
                raise DeliveryFailed(f"{channel.name} answered {answer.status}: {text}")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # The url may hold a secret, so of a client's error only its kind is told.
        raise DeliveryFailed(f"{channel.name}: {type(error).__name__}") from error


def subject(alert: AlertChanged) -> str:
    """One line that says it all."""
    kind = "resolved" if alert.status == RESOLVED else alert.severity
    return f"[{kind}] {alert.alert_type}: {alert.scope}"


def chat_text(notification: Notification) -> str:
    """The text of a chat message, with the three signs that Slack wants written otherwise."""
    alert = notification.alert
    text = f"{subject(alert)}\n{alert.message}"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def mail(channel: AlertChannelChanged, notification: Notification) -> EmailMessage:
    """The mail; its Message-ID is the notification's, so that mail servers know a repeat."""
    alert = notification.alert
    message = EmailMessage()
    message["Message-ID"] = f"<{notification.notification_id}@weir>"
    message["X-Weir-Notification"] = notification.notification_id
    message["Subject"] = " ".join(subject(alert).split())
    message["From"] = channel.sender
    message["To"] = ", ".join(channel.recipients)
    message["Date"] = format_datetime(datetime.fromtimestamp(alert.occurred_at_us / 1e6, UTC))
    message["Auto-Submitted"] = "auto-generated"
    lines = [
        f"{name}: {value}" for name, value in told(alert).items() if value not in (None, {}, [])
    ]
    message.set_content(alert.message + "\n\n" + "\n".join(lines) + "\n")
    return message


def _mail(channel: AlertChannelChanged, message: EmailMessage, timeout_s: float) -> None:
    """Hand a mail to the server; runs in a thread. Raises DeliveryFailed."""
    host, port = channel.host or "", channel.port or _SMTP_PORT
    secret = read_secret(channel.secret)
    context = ssl.create_default_context()
    try:
        server = (
            smtplib.SMTP_SSL(host, port, timeout=timeout_s, context=context)
            if channel.security == "tls"
            else smtplib.SMTP(host, port, timeout=timeout_s)
        )
        with server:
            if channel.security == "starttls":
                server.starttls(context=context)
            if channel.username is not None and secret is not None:
                server.login(channel.username, secret)
            refused = server.send_message(message)
    except (smtplib.SMTPException, OSError) as error:
        raise DeliveryFailed(f"{channel.name}: {host}:{port}: {error}") from error
    if refused:
        raise DeliveryFailed(f"{channel.name}: refused for {', '.join(sorted(refused))}")


def _write(notification: Notification) -> None:
    alert = notification.alert
    level = (
        logging.INFO if alert.status == RESOLVED else _LEVELS.get(alert.severity, logging.CRITICAL)
    )
    extra = {"alert_id": alert.alert_id, "notification_id": notification.notification_id}
    _alerts.log(level, "%s: %s", subject(alert), alert.message, extra=extra)
