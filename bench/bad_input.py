"""Claim: bad input is refused clearly, loses nothing and disturbs nobody.

While a background load runs, everything that users, analysts and broken producers can get wrong is
sent: requests, feedback, SQL that writes, reads files, floods memory or never ends, and records on
a topic that are no events. Each must be answered by its own status with a code and a message in
time; every answer of the load must be recorded exactly once, and the dead letters must hold each
broken record once for each consumer that met it.
"""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from confluent_kafka import Producer

from bench.claim import Arguments, Limit, Verdict, main
from bench.gather import SHAPE, Background, settle
from bench.rawlog import MARKER, decode, read_topics, unique
from bench.stack import Stack

BODY_BYTES_MAX = 1_048_576
ANSWER_S = 20.0
"""No refusal may take longer; the statement that never ends is given 3 s of this."""
SQL_TIMEOUT_S = 3
LETTERS = "weir.dead-letters.v1"
BROKEN_TOPIC = "weir.llm.responses.v1"
LETTERS_S = 30.0
RATE_PER_S = 20


class Bad(msgspec.Struct, frozen=True):
    """One bad input and the statuses that are right for it."""

    name: str
    path: str
    body: bytes
    statuses: tuple[int, ...]
    key: str | None = "admin"
    dialect: str = "openai"


def inputs() -> list[Bad]:
    """Return what is sent over HTTP."""
    return [*_requests(), *_feedback(), *_statements()]


def _requests() -> list[Bad]:
    found = []
    for dialect, path in (("openai", "/v1/chat/completions"), ("anthropic", "/v1/messages")):

        def bad(
            name: str,
            body: bytes,
            *statuses: int,
            key: str | None = "admin",
            path: str = path,
            dialect: str = dialect,
        ) -> Bad:
            return Bad(f"{dialect}: {name}", path, body, statuses, key, dialect)

        fine = _ask("openai/gpt-4.1-nano")
        found += [
            bad("unknown model", _ask("openai/no-such-model"), 404),
            bad("unknown vendor", _ask("nobody/nothing"), 404),
            bad("no model", json.dumps({"messages": []}).encode(), 400, 422),
            bad("no JSON", b'{"model": "openai/gpt-4.1-nano", "messages": [', 400),
            bad("empty body", b"", 400),
            bad("no object", b"[1, 2]", 400, 422),
            bad("messages no list", _ask("openai/gpt-4.1-nano", messages="hello"), 400, 422),
            bad("oversize body", _ask("openai/gpt-4.1-nano", "x" * BODY_BYTES_MAX), 413),
            bad("invalid UTF-8", fine.replace(b"water", b"wat\xff\xfe"), 400),
            bad("wrong key", fine, 401, key="weir-not-a-key"),
            bad("no key", fine, 401, key=None),
        ]
    return found


def _feedback() -> list[Bad]:
    fine = {
        "user_id": "u",
        "original_prompt": "p",
        "model_response": "r",
        "feedback_type": "manual_correction",
        "satisfaction_score": 0.5,
        "corrected_response": "c",
    }

    def bad(name: str, **changes: Any) -> Bad:
        return Bad(f"feedback: {name}", "/api/v1/feedback", _json(fine | changes), (400, 422))

    return [
        bad("score out of range", satisfaction_score=7),
        bad("score no number", satisfaction_score="high"),
        bad("unknown type", feedback_type="shrug"),
        bad("user no text", user_id=7),
        bad("blank prompt", original_prompt="  "),
        bad("correction without its text", corrected_response=None),
        Bad("feedback: no JSON", "/api/v1/feedback", b"{", (400, 422)),
    ]


def _statements() -> list[Bad]:
    refused = {
        "create": "CREATE TABLE mine AS SELECT 1",
        "insert": "INSERT INTO responses SELECT * FROM responses",
        "delete": "DELETE FROM responses",
        "update": "UPDATE costs SET cost_nano_usd = 0",
        "drop": "DROP TABLE responses",
        "write in a CTE": "WITH gone AS (DELETE FROM costs RETURNING *) SELECT * FROM gone",
        "two statements": "SELECT 1; DELETE FROM costs",
        "copy out": "COPY responses TO '/tmp/weir-bench-stolen.csv'",
        "copy into the log": "COPY (SELECT 1) TO 'weir.duckdb.wal'",
        "read a file": "SELECT * FROM read_text('/etc/passwd')",
        "read a file by name": "SELECT * FROM '/etc/passwd'",
        "read a csv": "SELECT * FROM read_csv('/etc/passwd')",
        "list files": "SELECT * FROM glob('/etc/*')",
        "attach": "ATTACH '/tmp/weir-bench-other.duckdb' AS other",
        "install": "INSTALL httpfs",
        "setting": "SET enable_external_access = true",
        "secrets": "SELECT getenv('WEIR_ADMIN_KEY')",
        "no SQL": "SELEKT everything",
        "no such table": "SELECT * FROM nobody",
        "flood a string": "SELECT length(repeat('x', 4000000000))",
        "flood a list": "SELECT list(a.range * b.range) FROM range(100000000) a, range(100) b",
        "flood a sort": "SELECT count(*) FROM (SELECT random() AS r FROM range(4000000000) ORDER BY r)",
        "never ends": "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
        "joins without end": "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range + b.range = -1",
    }
    statuses = (400, 403, 404, 408, 413, 422, 504, 507)
    return [
        Bad(
            f"sql: {name}",
            "/sql",
            _json({"query": query, "timeout_seconds": SQL_TIMEOUT_S}),
            statuses,
        )
        for name, query in refused.items()
    ]


def _ask(model: str, text: str = "Where is the water?", **changes: Any) -> bytes:
    ask = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": text}]}
    return _json(ask | changes)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


class Reply(msgspec.Struct):
    """What came back; `problem` is None when it was as it must be."""

    name: str
    status: int | None
    code: str | None
    elapsed_s: float
    problem: str | None


def send(stack: Stack, bad: Bad) -> Reply:
    """Send one bad input and judge its answer."""
    begun = time.monotonic()
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    if bad.key is not None:
        headers["authorization"] = f"Bearer {stack.key if bad.key == 'admin' else bad.key}"
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=ANSWER_S * 2)
    try:
        connection.request("POST", bad.path, bad.body, headers)
        answer = connection.getresponse()
        status, content = answer.status, answer.read()
    except OSError as error:
        return Reply(bad.name, None, None, time.monotonic() - begun, repr(error))
    finally:
        connection.close()
    elapsed_s = time.monotonic() - begun
    code, problem = judge_answer(bad, status, content)
    if problem is None and elapsed_s > ANSWER_S:
        problem = f"took {elapsed_s:.1f} s"
    return Reply(bad.name, status, code, round(elapsed_s, 3), problem)


def judge_answer(bad: Bad, status: int, content: bytes) -> tuple[str | None, str | None]:
    """Return the error's code, and what is wrong with the answer (None: nothing)."""
    try:
        body = json.loads(content)
        error = body["error"]
        code, message = error.get("code") or error.get("type"), error["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, f"{status} without an error body: {content[:200]!r}"
    if status not in bad.statuses:
        return code, f"{status} {code} instead of {bad.statuses}: {str(message)[:200]}"
    if not code or not message:
        return code, "no code or no message"
    if bad.dialect == "anthropic" and body.get("type") != "error":
        return code, "not Anthropic's form of an error"
    if "Traceback" in str(message):
        return code, "a traceback instead of a message"
    return code, None


def broken_records(stack: Stack) -> list[bytes]:
    """Put values that are no events on a topic; return them."""
    whole = next(
        value for value in _values(stack) if value is not None and decode(value)[1] is not None
    )
    values = [
        b"not avro at all",
        MARKER + b"\x00" * 8 + b"nobody published this",
        whole[: len(whole) // 2],
        whole + b"left over",
        b"",
    ]
    producer = Producer({"bootstrap.servers": stack.bootstrap, "acks": "all"})
    for number, value in enumerate(values):
        producer.produce(BROKEN_TOPIC, key=f"broken-{number}", value=value)
    if producer.flush(20.0):
        raise TimeoutError("the broken records did not reach the broker")
    return values


def _values(stack: Stack) -> list[bytes | None]:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": stack.bootstrap, "group.id": "bad-input"})
    try:
        consumer.assign([TopicPartition(BROKEN_TOPIC, number, 0) for number in range(4)])
        return [message.value() for message in consumer.consume(20, timeout=10.0)]
    finally:
        consumer.close()


def letters(stack: Stack) -> Counter[str]:
    """Return the dead letters of the broken topic by consumer."""
    return Counter(
        str(record.body["consumer"])
        for record in unique(read_topics(stack.bootstrap, [LETTERS]))
        if record.body is not None and record.body["source_topic"] == BROKEN_TOPIC
    )


def _await_letters(stack: Stack, wanted: int) -> Counter[str]:
    deadline = time.monotonic() + LETTERS_S
    while True:
        found = letters(stack)
        if (len(found) >= 2 and min(found.values()) >= wanted) or time.monotonic() > deadline:
            return found
        time.sleep(1.0)


def measure(arguments: Arguments) -> Verdict:
    """Send everything `--size` times over, beside a load that must not notice."""
    with Stack(
        arguments.out,
        seed=arguments.seed,
        environment={"WEIR_BODY_BYTES_MAX": str(BODY_BYTES_MAX)},
        keep=arguments.keep,
    ) as stack:
        with Background(stack, arguments.seed, RATE_PER_S, SHAPE) as load:
            time.sleep(2.0)
            values = broken_records(stack)
            with ThreadPoolExecutor(4) as pool:
                replies = list(pool.map(lambda bad: send(stack, bad), inputs() * arguments.size))
            found = _await_letters(stack, len(values))
        figures = settle(stack, load.rows, arguments)
    (arguments.out / "replies.json").write_bytes(msgspec.json.encode(replies))
    problems = {reply.name: reply.problem for reply in replies if reply.problem}
    doubled = sum(count > len(values) for count in found.values())
    figures |= {
        "inputs": len(replies) + len(values),
        "clear_errors": len(replies) - len(problems),
        "unclear": len(problems),
        "problems": problems,
        "slowest_s": max(reply.elapsed_s for reply in replies),
        "dead_letters": dict(found),
        "dead_letter_consumers": sum(count >= len(values) for count in found.values()),
        "dead_letters_doubled": doubled,
        "load_errors": sum(not row.complete for row in load.rows),
    }
    return Verdict(
        figures=figures,
        limits=[
            Limit("unclear", 0),
            Limit("load_errors", 0),
            Limit("lost", 0),
            Limit("doubled", 0),
            Limit("drift_nano_usd", 0),
            Limit("dead_letter_consumers", 2, "min"),
            Limit("dead_letters_doubled", 0),
        ],
    )


if __name__ == "__main__":
    main("bad_input", 1, measure)
