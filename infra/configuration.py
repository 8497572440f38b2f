"""Configuration as code: what a file says against what the log says, and the change set between them."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from infra import entities
from infra.admin_desk import validated
from infra.alert_entities import ALERT_CHANNEL
from infra.alert_tables import AlertChannelTable, AlertRuleTable
from infra.commands import Commands, facts, meta
from infra.entities import KINDS
from infra.keys import KeyCommands, key_table
from infra.kinds import Kind
from infra.settings import WeirSettings
from infra.tables import (
    BudgetTable,
    GuardrailTable,
    KeyTable,
    LimitTable,
    PriceTable,
    ProviderTable,
    RouteTable,
    Table,
    TargetTable,
    TenantTable,
)
from infra.vendors import LOCAL_PROVIDER, VENDORS
from schemas.errors import NotFound, ValidationFailed
from schemas.events.changes import KeyChanged, PriceChanged
from schemas.events.configuration import ConfigurationApplied

KEY = "key"
_KIND = {kind.name: kind for kind in KINDS}
_MODELS = {f"{vendor.name}/{it.name}": it for vendor in VENDORS for it in vendor.models}


class Document(Table):
    """A file of settings. It manages what it names and nothing else."""

    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="whose settings these are: the same name applied again replaces them",
        examples=["production"],
    )
    providers: dict[str, ProviderTable] = Field(default={}, description="by name")
    targets: dict[str, TargetTable] = Field(default={}, description="by provider/model")
    guardrails: dict[str, GuardrailTable] = Field(default={}, description="by name")
    routes: dict[str, RouteTable] = Field(default={}, description="by name")
    tenants: dict[str, TenantTable] = Field(default={}, description="by kind:id")
    budgets: dict[str, BudgetTable] = Field(default={}, description="by id")
    limits: dict[str, LimitTable] = Field(default={}, description="by id")
    prices: dict[str, PriceTable] = Field(default={}, description="by provider/model")
    alert_channels: dict[str, AlertChannelTable] = Field(default={}, description="by name")
    alert_rules: dict[str, AlertRuleTable] = Field(default={}, description="by id")
    keys: dict[str, KeyTable] = Field(default={}, description="by name")


@dataclass(frozen=True)
class Step:
    """One entity that changes. `before` and `after` are what is told of it, None where it is not."""

    kind: str
    id: str
    key: str
    action: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    table: BaseModel | None = None

    @property
    def fields(self) -> dict[str, tuple[Any, Any]]:
        """What differs: {name: (before, after)}."""
        before, after = self.before or {}, self.after or {}
        names = dict.fromkeys([*before, *after])
        pairs = {name: (before.get(name), after.get(name)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@dataclass
class Plan:
    """What applying a file would do; `manages` are the entities that it names, ``kind|id``."""

    steps: list[Step] = field(default_factory=list)
    manages: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def plan(document: Document, commands: Commands, name: str) -> Plan:
    """Compare a file with the log. Raises ValidationFailed, Conflict for ambiguous names."""
    made = Plan()
    wanted = expanded(document)
    for kind in KINDS:
        for entity_id, table in getattr(wanted, kind.plural).items():
            _entity(made, kind, entity_id, table, commands)
    for key_name, table in wanted.keys.items():
        _key(made, key_name, table, commands)
    previous = commands.view(ConfigurationApplied).get(name)
    for reference in reversed(previous.manages if previous else []):
        if reference in made.manages:
            continue
        if entities.price_name(reference.partition("|")[2]) in wanted.prices:
            made.manages.append(reference)  # what a model used to cost stays known
        else:
            made.steps += _removal(reference, commands)
    made.warnings += dangling(wanted, commands)
    return made


def expanded(document: Document) -> Document:
    """The file with the models of its providers as targets of their own."""
    targets, providers = dict(document.targets), {}
    for name, table in document.providers.items():
        for model in table.models or []:
            known = _MODELS.get(f"{name}/{model}")
            usual = (
                TargetTable(
                    capabilities=list(known.capabilities),
                    context_length=known.context_length,
                    max_output_tokens=known.max_output_tokens,
                    quality=known.quality,
                )
                if known
                else TargetTable()
            )
            targets.setdefault(f"{name}/{model}", usual)
        providers[name] = table.model_copy(update={"models": None})
    return document.model_copy(update={"targets": targets, "providers": providers})


def _entity(made: Plan, kind: Kind[Any, Any], name: str, table: Any, commands: Commands) -> None:
    view = commands.view(kind.event)
    if kind is entities.PRICE:
        table = entities.dated(name, table, view.entries.values())
    key = kind.key(name, table)
    current = view.get(key)
    event = kind.event(**meta(key, current, "plan"), **kind.fields(name, table))
    made.manages.append(f"{kind.name}|{kind.identify(event)}")
    if current is not None and facts(current) == facts(event):
        return
    before = None if current is None else told(kind.table(current))
    action = "create" if current is None else "change"
    made.steps.append(Step(kind.name, name, key, action, before, told(kind.table(event)), table))


def _key(made: Plan, name: str, table: KeyTable, commands: Commands) -> None:
    current = KeyCommands(commands).named(name)
    after = told(table)
    if current is None:
        after.setdefault("secret", "made now, shown once")
        made.steps.append(Step(KEY, name, "", "create", None, after, table))
        return
    made.manages.append(f"{KEY}|{current.key_id}")
    before = told(key_table(current, with_hash=table.secret_hash is not None))
    if before != after:
        made.steps.append(Step(KEY, name, current.key_id, "change", before, after, table))


def _removal(reference: str, commands: Commands) -> Iterator[Step]:
    kind_name, _, entity_id = reference.partition("|")
    if kind_name == KEY:
        key = commands.view(KeyChanged).get(entity_id)
        if key is not None and not key.revoked:
            before = told(key_table(key))
            yield Step(KEY, key.name, key.key_id, "revoke", before, None)
        return
    kind = _KIND[kind_name]
    place = kind.key(entity_id, None)
    current = commands.view(kind.event).get(place)
    if current is not None:
        yield Step(kind_name, entity_id, place, "remove", told(kind.table(current)), None)


def dangling(document: Document, commands: Commands) -> Iterator[str]:
    """Names that nothing stands behind, which would only show when a call needs them."""
    kinds: tuple[Kind[Any, Any], ...] = (entities.PROVIDER, entities.GUARDRAIL, ALERT_CHANNEL)
    known = {
        kind.name: {
            *(kind.identify(event) for event in commands.view(kind.event).entries.values()),
            *getattr(document, kind.plural),
        }
        for kind in kinds
    }
    for name, route in document.routes.items():
        for entry in route.targets:
            if entry.target.partition("/")[0] not in known["provider"]:
                yield f"route {name}: there is no provider for {entry.target}"
        for guardrail in route.guardrails:
            if guardrail not in known["guardrail"]:
                yield f"route {name}: there is no guardrail {guardrail}"
    for name, rule in document.alert_rules.items():
        for channel in rule.channels:
            if channel not in known["alert_channel"]:
                yield f"alert rule {name}: there is no channel {channel}"


def export(commands: Commands) -> Document:
    """Everything that is set now, as a file that changes nothing when it is applied.

    Price lists that come with Weir are left out, as is its own model server.
    """
    tables: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        events = sorted(commands.view(kind.event).entries.values(), key=kind.identify)
        tables[kind.plural] = {
            entities.price_name(kind.identify(event)): kind.table(event)
            for event in events
            if not _is_own(event)
        }
    keys = [key for key in KeyCommands(commands).list() if not key.revoked]
    tables["keys"] = {key.name: key_table(key, with_hash=True) for key in keys}
    return Document.model_validate({name: found for name, found in tables.items() if found})


def _is_own(event: Any) -> bool:
    if isinstance(event, PriceChanged):
        return event.source != entities.BY_HAND
    return LOCAL_PROVIDER in {getattr(event, "name", None), getattr(event, "provider", None)}


def read_file(path: Path) -> dict[str, Any]:
    """A file's tables, TOML or YAML by its name; key files are named from its folder.

    Raises NotFound, ValidationFailed.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix in {".yaml", ".yml"}:
        tables = read_yaml(path, text)
    else:
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _unreadable(path, error) from error
    _from_folder(tables.get("providers", {}), {"key_file", "keyFile"}, path.parent)
    files = {"url_file", "urlFile", "secret_file", "secretFile"}
    _from_folder(tables.get("alert_channels", {}), files, path.parent)
    return tables


def _from_folder(tables: Any, names: set[str], folder: Path) -> None:
    """Make the paths under these names absolute; what is no table is told of later."""
    for table in tables.values() if isinstance(tables, dict) else ():
        for name in names & set(table) if isinstance(table, dict) else ():
            given = table[name]
            if isinstance(given, str):
                table[name] = str((folder / Path(given).expanduser()).absolute())
            elif isinstance(given, list):
                table[name] = [str((folder / Path(it).expanduser()).absolute()) for it in given]


def read_yaml(path: Path, text: str) -> dict[str, Any]:
    """A YAML file's mapping. Raises ValidationFailed."""
    import yaml

    try:
        tables = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _unreadable(path, error) from error
    if not isinstance(tables, dict):
        raise _unreadable(path, ValueError("it holds no tables"))
    return tables


def parse(tables: Mapping[str, Any]) -> Document:
    """The document of a file's tables. Raises ValidationFailed with every field that is wrong."""
    fixed = tables.keys() & WeirSettings.model_fields.keys() - Document.model_fields.keys()
    if fixed:
        raise ValidationFailed(
            f"{', '.join(sorted(fixed))}: read when Weir starts, and not to be applied while it runs",
            action="Put what is named into weir.toml and start again; apply a file without it.",
        )
    document: Document = validated(Document, tables)
    return document


def _unreadable(path: Path, error: Exception) -> ValidationFailed:
    return ValidationFailed(f"{path} is not well-formed: {error}", action="Correct the file.")


def told(table: BaseModel) -> dict[str, Any]:
    """A table without what is only a default."""
    return table.model_dump(mode="json", exclude_defaults=True)
