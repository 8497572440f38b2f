"""Signature Version 4: the vendor's own test suite, and the vendor's own client on Bedrock's paths."""

import calendar
import datetime
from typing import Any

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as VendorCredentials

from gateway.dialects.bedrock import BEDROCK
from gateway.providers.aws import AwsSigner, canonical_path
from gateway.providers.signer import Unsigned
from schemas.errors import UpstreamAuthentication

NOW_S = calendar.timegm((2015, 8, 30, 12, 36, 0))
SUITE_KEY = "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SIGNER = AwsSigner(lambda: NOW_S)
BODY = b'{"messages":[{"role":"user","content":[{"text":"caf\xc3\xa9"}]}]}'
MODELS = [
    "anthropic.claude-3-haiku-20240307-v1:0",
    "us.anthropic.claude-3-7-sonnet-20250219-v1:0",
    "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-lite-v1:0",
]


def unsigned(**fields: Any) -> Unsigned:
    fields = {
        "provider": "bedrock",
        "host": "example.amazonaws.com",
        "target": "/",
        "headers": {},
        "body": b"",
        "secret": SUITE_KEY,
        "options": {"region": "us-east-1", "service": "service"},
        **fields,
    }
    return Unsigned(**fields)


FORM = {"content-type": "application/x-www-form-urlencoded"}
# "aws-sig-v4-test-suite", published by AWS with its general reference: all requests by POST that
# have no header twice (an HTTP client of the gateway never sends one twice).
SUITE: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "post-vanilla",
        {},
        "host;x-amz-date",
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    ),
    (
        "post-vanilla-query",
        {"target": "/?Param1=value1"},
        "host;x-amz-date",
        "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
    ),
    (
        "post-header-key-sort",
        {"headers": {"My-Header1": "value1"}},
        "host;my-header1;x-amz-date",
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
    ),
    (
        "post-header-value-case",
        {"headers": {"My-Header1": "VALUE1"}},
        "host;my-header1;x-amz-date",
        "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
    ),
    (
        "post-sts-header-before",
        {
            "secret": f"{SUITE_KEY}:AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZ"
            "TwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1"
            "NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d"
            "+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJ"
            "abIQwj2ICCR/oLxBA=="
        },
        "host;x-amz-date;x-amz-security-token",
        "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
    ),
    (
        "post-x-www-form-urlencoded",
        {"headers": FORM, "body": b"Param1=value1"},
        "content-type;host;x-amz-date",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
    (
        "post-x-www-form-urlencoded-parameters",
        {
            "headers": {"content-type": f"{FORM['content-type']}; charset=utf8"},
            "body": b"Param1=value1",
        },
        "content-type;host;x-amz-date",
        "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe",
    ),
]


@pytest.mark.req("PROV-02")
@pytest.mark.parametrize(("name", "fields", "names", "signature"), SUITE)
async def test_the_vendors_test_suite(
    name: str, fields: dict[str, Any], names: str, signature: str
) -> None:
    headers = await SIGNER.sign(unsigned(**fields))
    assert headers["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}"
    ), name


@pytest.mark.req("PROV-02")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("token", [None, "session/token=="])
async def test_the_same_as_the_vendors_client(
    model: str, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = "bedrock-runtime.eu-central-1.amazonaws.com"
    target = BEDROCK.path_of(model, stream=True)
    headers = {"content-type": "application/json", "x-weir": "a  b", "accept-encoding": "identity"}
    ours = await SIGNER.sign(
        unsigned(
            host=host,
            target=target,
            headers=headers,
            body=BODY,
            secret="AKID:SECRET" + (f":{token}" if token else ""),
            options={"region": "eu-central-1"},
        )
    )
    at = datetime.datetime.fromtimestamp(NOW_S, datetime.UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_: at)
    theirs = AWSRequest("POST", f"https://{host}{target}", headers, BODY)
    credentials = VendorCredentials("AKID", "SECRET", token)
    botocore.auth.SigV4Auth(credentials, "bedrock", "eu-central-1").add_auth(theirs)
    assert ours["authorization"] == theirs.headers["Authorization"]
    assert ours["x-amz-date"] == theirs.headers["X-Amz-Date"]


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("", "/"),
        ("/", "/"),
        ("//a/./b/../c//", "/a/c/"),
        ("/..", "/"),
        ("/model/a%3A0/converse", "/model/a%253A0/converse"),
        ("/a-b_c.d~e", "/a-b_c.d~e"),
    ],
)
def test_paths_are_normalised_and_encoded_twice(path: str, canonical: str) -> None:
    assert canonical_path(path) == canonical


async def test_an_api_key_is_a_bearer_token() -> None:
    headers = await SIGNER.sign(unsigned(secret="bedrock-api-key-abc", options={}))
    assert headers == {"authorization": "Bearer bedrock-api-key-abc"}


async def test_the_json_of_a_credential_process_is_an_identity() -> None:
    text = '{"Version":1,"AccessKeyId":"AKIDEXAMPLE","SecretAccessKey":"%s"}'
    given = unsigned(secret=text % SUITE_KEY.partition(":")[2])
    assert await SIGNER.sign(given) == await SIGNER.sign(unsigned())


async def test_without_a_key_the_usual_variables_are_the_identity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SUITE_KEY.partition(":")[2])
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    assert await SIGNER.sign(unsigned(secret=None)) == await SIGNER.sign(unsigned())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"options": {}}, "region"),
        ({"secret": "{}"}, "AccessKeyId"),
        ({"secret": None}, "AWS_ACCESS_KEY_ID"),
    ],
)
async def test_what_is_missing_is_named(
    fields: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with pytest.raises(UpstreamAuthentication, match=told):
        await SIGNER.sign(unsigned(**fields))
