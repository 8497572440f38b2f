"""The answer must be JSON that a schema accepts (JSON Schema 2020-12, `options["schema"]`)."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.guardrails.base import Check, Found, Kind
from schemas.errors import ConfigurationError
from schemas.events.changes import GuardrailChanged


class Schema:
    """Validates whole texts."""

    whole = True

    def __init__(self, validator: Any) -> None:
        self._validator = validator

    def check(self, text: str) -> Found:
        """Return where the text breaks the schema, as paths without values."""
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            return Found(text, ["not JSON"])
        faults = [
            f"/{'/'.join(map(str, error.absolute_path))}: {error.validator}"
            for _, error in zip(range(8), self._validator.iter_errors(value), strict=False)
        ]
        return Found(text, faults)

    def hold(self, text: str) -> int:
        """Hold everything: only the end shows whether it is right."""
        del text
        return 0


def build(rule: GuardrailChanged) -> Check:
    """Return the check of a rule. Raises ConfigurationError for what is no schema."""
    import jsonschema  # a tenth of a second, and only some installations use it

    if rule.action == "mask":
        raise ConfigurationError(f"guardrail {rule.name}: a schema can block or flag, not mask")
    try:
        schema = msgspec.json.decode(rule.options.get("schema", ""))
        jsonschema.Draft202012Validator.check_schema(schema)
    except (msgspec.DecodeError, jsonschema.SchemaError) as error:
        raise ConfigurationError(
            f"guardrail {rule.name}: options.schema is no JSON schema",
            action="Give a JSON Schema (2020-12) as text.",
        ) from error
    return Schema(jsonschema.Draft202012Validator(schema))


SCHEMA = Kind("schema", build)
