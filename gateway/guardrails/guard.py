"""Runs the guardrails of a route over requests, whole answers and streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.dialects.neutral import Delta, DeltaKind
from gateway.guardrails.base import Check, Kind
from schemas.discovery import discover
from schemas.errors import ConfigurationError, GuardrailBlocked
from schemas.events.changes import GuardrailChanged

CONTENT = frozenset(
    {
        "messages", "system", "prompt", "systemPrompt", "system_prompt", "input", "instructions",
        "contents", "systemInstruction", "system_instruction", "query", "documents", "texts",
    }
)  # fmt: skip
"""The members of a request, in any dialect, that hold what people wrote."""
STRUCTURAL = frozenset(
    {
        "role", "type", "id", "object", "model", "name", "call_id", "tool_call_id", "tool_use_id",
        "toolUseId", "url", "data", "bytes", "media_type", "mimeType", "detail", "signature",
        "encrypted_content", "thoughtSignature", "finish_reason", "stop_reason", "finishReason",
        "stopReason", "system_fingerprint", "service_tier", "status",
    }
)  # fmt: skip
"""Members whose text is not prose: masking them would break the request or the answer."""
DATA = frozenset({"input", "args", "response", "json"})
"""Members whose objects are a tool's own data, with names that mean nothing to a vendor."""
STREAMED = frozenset({"text", "thinking", "arguments"})


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with its check; `event_id` is that of the change that made it so."""

    name: str
    action: str
    stages: list[str]
    check: Check
    event_id: str


class Guard:
    """The rules of one call and what they did. Raises GuardrailBlocked where one blocks."""

    def __init__(self, rules: list[Rule]) -> None:
        self._rules = rules
        self.acted: dict[str, str] = {}

    @property
    def versions(self) -> str:
        """Return a text that is another one when any of the rules was changed."""
        return ",".join(rule.event_id for rule in self._rules)

    def at(self, stage: str) -> list[Rule]:
        """Return the rules of a stage."""
        return [rule for rule in self._rules if stage in rule.stages]

    def text(self, text: str, rules: list[Rule]) -> str:
        """Return a text as it may pass."""
        for rule in rules:
            found = rule.check.check(text)
            if not found.what:
                continue
            verb = {"block": "blocked", "mask": "masked"}.get(rule.action, "flagged")
            self.acted[rule.name] = f"{verb}: {', '.join(found.what)}"[:200]
            if rule.action == "block":
                raise GuardrailBlocked(
                    f"the guardrail '{rule.name}' does not let this pass", details=found.what
                )
            if rule.action == "mask":
                text = found.text
        return text

    def walk(self, value: Any, rules: list[Rule], *, data: bool = False) -> Any:
        """Return a JSON value with every text in it as it may pass; in `data` nothing is structure."""
        match value:
            case str():
                return self.text(value, rules)
            case list():
                return [self.walk(item, rules, data=data) for item in value]
            case dict():
                return {
                    name: item
                    if name in STRUCTURAL and not data
                    else self.walk(
                        item, rules, data=data or (name in DATA and isinstance(item, dict))
                    )
                    for name, item in value.items()
                }
        return value

    def request(self, fields: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
        """Return a request's members as they may pass."""
        rules = self.at("request")
        checked = dict(fields)
        for name in CONTENT.intersection(fields) if rules else ():
            value = msgspec.json.decode(fields[name])
            if (passed := self.walk(value, rules)) != value:
                checked[name] = msgspec.Raw(msgspec.json.encode(passed))
        return checked

    def answer(self, body: bytes) -> bytes:
        """Return a provider's whole answer (JSON) as it may pass."""
        rules = [rule for rule in self.at("response") if not rule.check.whole]
        if not rules:
            return body
        value = msgspec.json.decode(body)
        passed = self.walk(value, rules)
        return body if passed == value else msgspec.json.encode(passed)

    def said(self, text: str) -> None:
        """Judge the text of a whole answer."""
        self.text(text, [rule for rule in self.at("response") if rule.check.whole])

    def stream(self) -> GuardedStream | None:
        """Return what a stream passes through, None where nothing guards it."""
        rules = self.at("response")
        return GuardedStream(self, rules) if rules else None


class GuardedStream:
    """Holds back as much of each text as a find may still begin in."""

    def __init__(self, guard: Guard, rules: list[Rule]) -> None:
        self._guard = guard
        self._rules = rules
        self._held: dict[tuple[DeltaKind, int], str] = {}

    def passing(self, delta: Delta) -> list[Delta]:
        """Return what may leave now that a delta came. Raises GuardrailBlocked."""
        if delta.kind not in STREAMED:
            # Usage may come before the last text, everything else ends a text.
            return [delta] if delta.kind == "usage" else [*self._flush(), delta]
        place = (delta.kind, delta.index)
        before = [] if place in self._held else self._flush()
        rules = self._of(delta.kind)
        text = self._held.get(place, "") + delta.text
        cut = min((rule.check.hold(text) for rule in rules), default=len(text))
        self._held[place] = text[cut:]
        if not cut:
            return before
        passed = self._guard.text(text[:cut], rules)
        return [*before, msgspec.structs.replace(delta, text=passed)]

    def _flush(self) -> list[Delta]:
        held, self._held = self._held, {}
        return [
            Delta(kind, self._guard.text(text, self._of(kind)), index)
            for (kind, index), text in held.items()
            if text
        ]

    def _of(self, kind: DeltaKind) -> list[Rule]:
        """A rule for whole answers judges what is said, not thoughts or a tool's arguments."""
        return [rule for rule in self._rules if kind == "text" or not rule.check.whole]


class Guardrails:
    """The rules that the log knows, built once each."""

    def __init__(self, rules: Callable[[], Mapping[str, GuardrailChanged]]) -> None:
        self._rules = rules
        self._kinds = {kind.name: kind for kind in discover("gateway.guardrails", Kind)}
        self._built: dict[str, tuple[GuardrailChanged, Rule]] = {}

    def of(self, names: list[str]) -> Guard:
        """Return the guard of a call. Raises ConfigurationError for a rule that cannot run.

        A missing rule is an error and not a pass: whoever named it relies on it.
        """
        return Guard([self._rule(name) for name in names])

    def _rule(self, name: str) -> Rule:
        event = self._rules().get(name)
        if event is None:
            raise ConfigurationError(
                f"the route names the guardrail '{name}', which does not exist",
                action="Create it with `weir apply`, or take it out of the route.",
            )
        built = self._built.get(name)
        if built is not None and built[0] is event:
            return built[1]
        kind = self._kinds.get(event.kind)
        if kind is None:
            raise ConfigurationError(
                f"the guardrail '{name}' is of the unknown kind '{event.kind}'",
                action=f"Choose one of {', '.join(sorted(self._kinds))}.",
            )
        rule = Rule(name, event.action, event.stages, kind.build(event), event.event_id)
        self._built[name] = (event, rule)
        return rule
