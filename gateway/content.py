"""Masking of personal data in recorded content: each find becomes ``[TYPE]``.

Recognisers are narrow and checked (Luhn, ISO 7064 for IBANs, octet ranges), because a masked
text that lost half its words is of no use. Names are not recognised: `masked` is no anonymity.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

import msgspec

Check = Callable[[str], bool]

_EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b")
_SECRET = re.compile(
    r"\b(?:sk|pk|rk|ghp|gho|ghs|xox[abps]|weir|glpat|AKIA|AIza)[-_A-Za-z0-9]{14,200}\b"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"
)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"\b\d(?:[ -]?\d){12,18}\b")
_IP = re.compile(
    r"\b(?:\d{1,3}\.){3}\d{1,3}\b|(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}\b"
)
_PHONE = re.compile(
    r"(?<![\w.])(?<!\d )(?:\+|00)\d{1,3}(?:[ ./()-]{0,2}\d){6,12}\b|\(\d{3}\) ?\d{3}-\d{4}\b"
)


def luhn(text: str) -> bool:
    """Whether the digits of a text pass the Luhn check (ISO/IEC 7812-1)."""
    digits = [int(digit) for digit in text if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def iban(text: str) -> bool:
    """Whether a text is an IBAN by its check digits (ISO 13616, ISO 7064 mod 97-10)."""
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def ip_address(text: str) -> bool:
    """Whether a text is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _always(_: str) -> bool:
    return True


RECOGNISERS: list[tuple[str, re.Pattern[str], Check]] = [
    ("SECRET", _SECRET, _always),
    ("EMAIL", _EMAIL, _always),
    ("IBAN", _IBAN, iban),
    ("CARD", _CARD, luhn),
    ("IP", _IP, ip_address),
    ("PHONE", _PHONE, _always),
]


def mask(text: str) -> str:
    """Return the text with every recognised item replaced by its type in brackets."""
    for name, pattern, check in RECOGNISERS:
        label = f"[{name}]"

        def replace(found: re.Match[str], label: str = label, check: Check = check) -> str:
            return label if check(found[0]) else found[0]

        text = pattern.sub(replace, text)
    return text


class ContentMasker:
    """Masks every string inside a JSON document, its structure and keys untouched."""

    def mask_json(self, document: bytes) -> bytes:
        """Return the document masked. Raises msgspec.DecodeError for what is not JSON."""
        return msgspec.json.encode(self._walk(msgspec.json.decode(document)))

    def _walk(self, value: Any) -> Any:
        match value:
            case str():
                return mask(value)
            case list():
                return [self._walk(item) for item in value]
            case dict():
                return {key: self._walk(item) for key, item in value.items()}
        return value
