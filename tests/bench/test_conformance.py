"""The conformance claim's own parts: what it expects, what it notices, what it pins."""

import socket
import threading
from typing import Any

import pytest

from bench.conformance import judge
from bench.conformance_targets import CASES, TARGETS
from bench.runtimes import LANGUAGES, PROBES, Probe, Tool
from bench.spoiler import FRAME, SPOILT, Spoiler
from infra.broker import free_port
from infra.vendors import VENDORS

PROBE = Probe("python openai", "openai", ())


def rows() -> list[dict[str, Any]]:
    return [
        {"probe": PROBE.name, "version": "1", "target": target.name, "case": case, "ok": True}
        for target in TARGETS
        for case in target.cases("openai")
    ]


@pytest.mark.req("BEY-01")
def test_every_case_on_every_target_must_have_passed() -> None:
    assert not judge(rows(), [PROBE], {}, TARGETS).misses
    assert judge(rows()[1:], [PROBE], {}, TARGETS).misses
    failed = [{**rows()[0], "ok": False}, *rows()[1:]]
    assert judge(failed, [PROBE], {}, TARGETS).figures["failures"] == [
        f"{PROBE.name} {failed[0]['target']} {failed[0]['case']}"
    ]
    # A client that did not run at all counts as failed too.
    assert judge(rows(), [PROBE, Probe("go openai", "openai", ())], {}, TARGETS).misses


@pytest.mark.req("PROV-01")
def test_there_is_a_target_of_every_dialect() -> None:
    assert {target.row.dialect for target in TARGETS} == {vendor.dialect for vendor in VENDORS}
    assert any(target.row.quirks for target in TARGETS)


def test_every_script_has_every_case() -> None:
    sources = {
        "python": "{0}_client.py",
        "typescript": "typescript/{0}_client.mjs",
        "go": "go/{0}_client.go",
    }
    for client in CASES:
        asked = {case for target in TARGETS for case in target.cases(client)}
        for source in sources.values():
            text = (PROBES / source.format(client)).read_text("utf-8")
            assert not {case for case in asked if case not in text}, source
        text = (PROBES / f"java/src/main/java/{client.capitalize()}Client.java").read_text("utf-8")
        assert not {case for case in asked if f'"{case}"' not in text}


def test_what_they_depend_on_is_pinned_by_hash_and_without_addresses() -> None:
    lock = (PROBES / "typescript" / "package-lock.json").read_text("utf-8")
    assert '"resolved"' not in lock
    assert "http" not in lock
    assert lock.count('"integrity"') == lock.count('"node_modules/')
    assert "h1:" in (PROBES / "go" / "go.sum").read_text("utf-8")


def test_a_language_that_lacks_is_named() -> None:
    assert Tool("no-such-program").lacks() == "no-such-program is not on this machine"
    assert "the clients need 99.0" in (Tool("sh", "-c", (99, 0)).lacks() or "")
    assert {language.name for language in LANGUAGES} == {"typescript", "go", "java"}


def test_the_sabotage_spoils_one_frame() -> None:
    behind = socket.create_server(("127.0.0.1", 0))
    sent = FRAME + b'"a": 1}\n\n' + FRAME + b'"a": 2}\n\n'

    def answer() -> None:
        connection, _ = behind.accept()
        connection.recv(100)
        connection.sendall(sent)
        connection.close()

    threading.Thread(target=answer, daemon=True).start()
    port = free_port()
    with Spoiler(port, behind.getsockname()[1]):
        client = socket.create_connection(("127.0.0.1", port), timeout=5)
        client.sendall(b"GET")
        got = b""
        while data := client.recv(1_000):
            got += data
    assert got == sent.replace(FRAME, SPOILT, 1)
