"""Encoders of the events that each call makes. Written by `python -m schemas.publish`, not by hand."""

# fmt: off
from __future__ import annotations

from typing import Any, Final

import msgspec

from schemas.encoder import (
    END,
    NO,
    NULL,
    SOME,
    YES,
    Encoder,
    Words,
    blob,
    double,
    items,
    long,
    size_of,
    some_long,
    some_text,
    some_word,
    text,
    time,
    utf8,
    word,
)

_fields: Final = msgspec.structs.astuple
_WORDS_1: Final = Words("owoooooow")
_WORDS_2: Final = Words("wwww")
_WORDS_3: Final = Words("owooooooww")
_WORDS_4: Final = Words("ppp")


def _candidate(record: Any) -> bytes:
    t: tuple[Any, ...] = _fields(record)
    return b"%b%b%b%b" % (
        word(t[0]),  # target
        double(t[1]),  # score
        YES if t[2] else NO,  # eligible
        word(t[3]),  # reason
    )


def _admitted(record: Any) -> bytes:
    t: tuple[Any, ...] = _fields(record)
    return b"%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b" % (
        b"\xc3\x01\x36\xc0\x33\x59\x11\x51\xd9\x57",
        size_of(b0 := utf8(t[0])),  # event_id
        b0,
        time(t[1]),  # occurred_at_us
        size_of(b2 := utf8(t[2])),  # request_id
        b2,
        word(t[3]),  # key_id
        NULL if t[4] is None else some_word(t[4]),  # team
        NULL if t[5] is None else some_word(t[5]),  # project
        NULL if t[6] is None else some_text(t[6]),  # user_id
        _WORDS_1.of(t[7:16]),  # cost_center to surface
        NULL if t[16] is None else some_text(t[16]),  # session_id
        items([text(key) + text(item) for key, item in t[17].items()]) if t[17] else END,  # tags
        _WORDS_2.of(t[18:22]),  # dialect to strategy
        YES if t[22] else NO,  # stream
        double(t[23]),  # propensity
        items([_candidate(item) for item in t[24]]) if t[24] else END,  # candidates
        NULL if t[25] is None else some_long(t[25]),  # input_tokens_estimate
        NULL if t[26] is None else some_long(t[26]),  # max_output_tokens
        NULL if t[27] is None else some_long(t[27]),  # reserved_nano_usd
        word(t[28]),  # durability
        word(t[29]),  # worker
        word(t[30]),  # outbox_id
        long(t[31]),  # decision_us
        NULL if t[32] is None else some_word(t[32]),  # reason
        NULL if t[33] is None else SOME + double(t[33]),  # task_confidence
        NULL if t[34] is None else some_word(t[34]),  # complexity
        items([text(item) for item in t[35]]) if t[35] else END,  # budgets
        NULL if t[36] is None else some_text(t[36]),  # traceparent
    )


def _attempt(record: Any) -> bytes:
    t: tuple[Any, ...] = _fields(record)
    return b"%b%b%b%b%b%b" % (
        word(t[0]),  # target
        word(t[1]),  # outcome
        NULL if t[2] is None else some_word(t[2]),  # error_class
        NULL if t[3] is None else some_long(t[3]),  # status
        long(t[4]),  # latency_us
        NULL if t[5] is None else some_long(t[5]),  # first_token_us
    )


def _completed(record: Any) -> bytes:
    t: tuple[Any, ...] = _fields(record)
    return b"%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b" % (
        b"\xc3\x01\xa4\x4a\xcb\x3a\xd2\xf9\xa6\xc9",
        size_of(b0 := utf8(t[0])),  # event_id
        b0,
        time(t[1]),  # occurred_at_us
        size_of(b2 := utf8(t[2])),  # request_id
        b2,
        word(t[3]),  # key_id
        NULL if t[4] is None else some_word(t[4]),  # team
        NULL if t[5] is None else some_word(t[5]),  # project
        NULL if t[6] is None else some_text(t[6]),  # user_id
        _WORDS_3.of(t[7:17]),  # cost_center to outcome
        NULL if t[17] is None else some_long(t[17]),  # status
        NULL if t[18] is None else some_word(t[18]),  # error_code
        items([_attempt(item) for item in t[19]]) if t[19] else END,  # attempts
        NULL if t[20] is None else some_long(t[20]),  # input_tokens
        NULL if t[21] is None else some_long(t[21]),  # cached_input_tokens
        NULL if t[22] is None else some_long(t[22]),  # output_tokens
        NULL if t[23] is None else some_long(t[23]),  # reasoning_tokens
        word(t[24]),  # usage_basis
        NULL if t[25] is None else some_word(t[25]),  # finish_reason
        YES if t[26] else NO,  # stream
        long(t[27]),  # latency_us
        NULL if t[28] is None else some_long(t[28]),  # first_token_us
        NULL if t[29] is None else some_long(t[29]),  # cost_nano_usd
        NULL if t[30] is None else some_long(t[30]),  # cache_write_input_tokens
        NULL if t[31] is None else some_word(t[31]),  # cache
        items([text(key) + text(item) for key, item in t[32].items()]) if t[32] else END,  # guardrails
        items([text(key) + long(item) for key, item in t[33].items()]) if t[33] else END,  # units
        items([text(key) + text(item) for key, item in t[34].items()]) if t[34] else END,  # trials
    )


def _entered(record: Any) -> bytes:
    t: tuple[Any, ...] = _fields(record)
    return b"%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b" % (
        b"\xc3\x01\xb8\x0f\x99\x6f\x69\xa0\x7b\xfe",
        size_of(b0 := utf8(t[0])),  # event_id
        b0,
        time(t[1]),  # occurred_at_us
        size_of(b2 := utf8(t[2])),  # request_id
        b2,
        word(t[3]),  # key_id
        NULL if t[4] is None else some_word(t[4]),  # team
        NULL if t[5] is None else some_word(t[5]),  # project
        NULL if t[6] is None else some_text(t[6]),  # user_id
        _WORDS_3.of(t[7:17]),  # cost_center to entry
        NULL if t[17] is None else some_long(t[17]),  # input_tokens
        NULL if t[18] is None else some_long(t[18]),  # cached_input_tokens
        NULL if t[19] is None else some_long(t[19]),  # output_tokens
        _WORDS_4.of(t[20:23]),  # input_price to output_price
        NULL if t[23] is None else some_long(t[23]),  # cost_nano_usd
        NULL if t[24] is None else some_word(t[24]),  # price_version
        word(t[25]),  # basis
        NULL if t[26] is None else some_long(t[26]),  # cache_write_input_tokens
        NULL if t[27] is None else some_long(t[27]),  # cache_write_input_price
        items([text(key) + long(item) for key, item in t[28].items()]) if t[28] else END,  # units
        NULL if t[29] is None else some_long(t[29]),  # cache_saved_nano_usd
        items([text(item) for item in t[30]]) if t[30] else END,  # budgets
        NULL if t[31] is None else some_word(t[31]),  # price_list
        NULL if t[32] is None else some_long(t[32]),  # priced_at_us
        NULL if t[33] is None else some_text(t[33]),  # corrects
        YES if t[34] else NO,  # first_price
    )


def _captured(record: Any) -> bytes:
    t: tuple[Any, ...] = _fields(record)
    return b"%b%b%b%b%b%b%b%b%b%b%b%b%b" % (
        b"\xc3\x01\x1d\x70\x69\x56\x1e\x80\xe4\xed",
        size_of(b0 := utf8(t[0])),  # event_id
        b0,
        time(t[1]),  # occurred_at_us
        size_of(b2 := utf8(t[2])),  # request_id
        b2,
        word(t[3]),  # mode
        size_of(b4 := utf8(t[4])),  # data_key_id
        b4,
        size_of(b5 := blob(t[5])),  # nonce
        b5,
        size_of(b6 := blob(t[6])),  # ciphertext
        b6,
    )


ENCODERS: Final[dict[bytes, Encoder]] = {
    b"\xc3\x01\x36\xc0\x33\x59\x11\x51\xd9\x57": _admitted,
    b"\xc3\x01\xa4\x4a\xcb\x3a\xd2\xf9\xa6\xc9": _completed,
    b"\xc3\x01\xb8\x0f\x99\x6f\x69\xa0\x7b\xfe": _entered,
    b"\xc3\x01\x1d\x70\x69\x56\x1e\x80\xe4\xed": _captured,
}
