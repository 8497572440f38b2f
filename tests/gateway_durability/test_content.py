import msgspec
import pytest

from gateway.content import ContentMasker, iban, ip_address, luhn, mask


@pytest.mark.req("SEC-05")
@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to jane.doe+x@mail.example.co.uk now", "write to [EMAIL] now"),
        ("card 4111 1111 1111 1111.", "card [CARD]."),
        ("card 4111-1111-1111-1112.", "card 4111-1111-1111-1112."),
        ("pay DE89 3704 0044 0532 0130 00 today", "pay [IBAN] today"),
        ("not DE88 3704 0044 0532 0130 00", "not DE88 3704 0044 0532 0130 00"),
        ("from 192.168.0.255 to 10.0.0.1", "from [IP] to [IP]"),
        ("version 1.2.3 and 300.1.1.1", "version 1.2.3 and 300.1.1.1"),
        ("v6 2001:db8::ff00:42:8329 ok", "v6 [IP] ok"),
        ("call +49 30 901820 or (415) 555-2671", "call [PHONE] or [PHONE]"),
        ("key sk-abcdefghijklmnopqrstuvwx", "key [SECRET]"),
        ("it is 12:30:45 on 2026-11-20, order 12345", "it is 12:30:45 on 2026-11-20, order 12345"),
        ("nothing personal, 3 + 4 = 7", "nothing personal, 3 + 4 = 7"),
    ],
)
def test_masks_what_it_recognises_and_nothing_else(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_every_string_of_a_document_is_masked_and_its_shape_kept() -> None:
    document = {
        "request": {"messages": [{"role": "user", "content": "I am a@b.io"}], "n": 1},
        "response": {"choices": [{"text": "hi a@b.io", "index": 0, "logprobs": None}]},
    }
    masked = msgspec.json.decode(ContentMasker().mask_json(msgspec.json.encode(document)))
    assert masked["request"]["messages"][0] == {"role": "user", "content": "I am [EMAIL]"}
    assert masked["response"]["choices"][0] == {"text": "hi [EMAIL]", "index": 0, "logprobs": None}


def test_checks() -> None:
    # Test numbers of the card networks, and the IBAN examples of the SWIFT registry.
    assert all(map(luhn, ("4111111111111111", "5500 0000 0000 0004", "340000000000009")))
    assert not luhn("4111111111111112")
    assert all(map(iban, ("GB29NWBK60161331926819", "FR1420041010050500013M02606")))
    assert not iban("GB28NWBK60161331926819")
    assert ip_address("::1")
    assert not ip_address("1.2.3")
