"""Change sets: many commands under one name and id, carried out together and taken back together."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from infra.commands import Accepted, Commands, facts
from infra.configuration import KEY, Plan, Step, told
from infra.entities import KINDS
from infra.keys import KeyCommands, key_fields, key_table
from infra.tables import KeyTable
from schemas.codec import decode
from schemas.errors import Conflict, NotFound
from schemas.events.changes import Change, KeyChanged
from schemas.events.configuration import ConfigurationApplied
from schemas.identity import uuid7
from schemas.log import Cursor, Log

_KIND = {kind.name: kind for kind in KINDS}
_BATCH = 5_000
CORRELATION = "ce_correlationid"
Place = tuple[type[Change], str]


@dataclass(frozen=True)
class Carried:
    """What became of a change set; `secrets` of keys that it made are shown this once."""

    change_set_id: str
    steps: list[Step]
    secrets: dict[str, str]


class ChangeSets:
    """Applies plans and takes them back."""

    def __init__(self, log: Log, commands: Commands) -> None:
        self._log = log
        self._commands = commands
        self._keys = KeyCommands(commands)

    async def apply(self, made: Plan, name: str) -> Carried:
        """Carry a plan out. Raises Conflict when somebody else changed something meanwhile.

        What was written before stays written: applying again goes on from there.
        """
        previous = self._commands.view(ConfigurationApplied).get(name)
        before = previous.manages if previous else []
        if not made.steps and set(before) == set(made.manages):
            return Carried(previous.change_set_id if previous else "", [], {})
        change_set_id, actor = uuid7(), f"apply:{name}"
        summary = [f"{step.action} {step.kind} {step.id}" for step in made.steps]
        # It names what was managed before too: one that breaks off half way forgets nothing.
        await self._announce(
            name, change_set_id, summary, [*dict.fromkeys([*made.manages, *before])]
        )
        secrets: dict[str, str] = {}
        written: list[str] = []
        for group in _in_order(made.steps):
            done = await asyncio.gather(
                *(self._carry_out(step, actor, change_set_id, secrets) for step in group)
            )
            written += [reference for reference in done if reference]
        await self._announce(name, change_set_id, summary, [*made.manages, *written])
        return Carried(change_set_id, made.steps, secrets)

    async def _announce(
        self,
        name: str,
        change_set_id: str,
        summary: list[str],
        manages: list[str],
        reverts: str | None = None,
    ) -> None:
        current = self._commands.view(ConfigurationApplied).get(name)
        fields: dict[str, Any] = {
            "name": name,
            "change_set_id": change_set_id,
            "summary": summary,
            "manages": manages,
            "reverts": reverts,
        }
        if current is not None and facts(current) == fields:
            return
        await self._commands.put(
            ConfigurationApplied,
            name,
            fields,
            actor=f"apply:{name}",
            expected_version=current.entity_version if current else 0,
            correlation_id=change_set_id,
        )

    async def _carry_out(
        self, step: Step, actor: str, change_set_id: str, secrets: dict[str, str]
    ) -> str | None:
        """Do one step; returns the reference of a key that it made."""
        if step.kind == KEY:
            return await self._key(step, actor, change_set_id, secrets)
        kind = _KIND[step.kind]
        common: dict[str, Any] = {"actor": actor, "correlation_id": change_set_id}
        if step.table is None:
            await self._commands.delete(kind.event, step.key, **common)
        else:
            fields = kind.fields(step.id, step.table)
            await self._commands.put(kind.event, step.key, fields, **common)
        return None

    async def _key(
        self, step: Step, actor: str, change_set_id: str, secrets: dict[str, str]
    ) -> str | None:
        if step.action == "create":
            assert isinstance(step.table, KeyTable)
            accepted, secret = await self._keys.create(step.id, step.table, actor, change_set_id)
            if secret is not None:
                secrets[step.id] = secret
            return f"{KEY}|{accepted.event.key}"
        current = self._keys.get(step.key)
        fields: dict[str, Any] = {"revoked": True}
        if step.table is not None:
            assert isinstance(step.table, KeyTable)
            fields = key_fields(current.key_id, step.id, step.table, current.secret_hash)
        await self._put(msgspec.structs.replace(current, **fields), current, actor, change_set_id)
        return None

    async def _put(
        self, wanted: Change, current: Change | None, actor: str, change_set_id: str
    ) -> Accepted:
        return await self._commands.put(
            type(wanted),
            wanted.key,
            facts(wanted),
            actor=actor,
            expected_version=current.entity_version if current else 0,
            correlation_id=change_set_id,
        )

    # --- taking back ---------------------------------------------------------------------------

    async def list(self) -> Sequence[ConfigurationApplied]:
        """Every change set, the newest first."""
        sets: dict[str, ConfigurationApplied] = {}
        async for event, _ in self._history(ConfigurationApplied):
            assert isinstance(event, ConfigurationApplied)
            sets[event.change_set_id] = event
        return sorted(sets.values(), key=lambda it: it.change_set_id, reverse=True)

    async def choose(self, change_set_id: str | None) -> ConfigurationApplied:
        """The change set to take back: the last one that still stands unless one is named.

        Raises NotFound.
        """
        sets = await self.list()
        taken_back = {it.reverts for it in sets}
        for it in sets:
            if it.change_set_id == change_set_id:
                return it
            if change_set_id is None and not it.reverts and it.change_set_id not in taken_back:
                return it
        raise NotFound(
            f"there is no change set {change_set_id or 'to take back'}",
            action="List them with `weir rollback --list`.",
        )

    async def rollback(
        self, chosen: ConfigurationApplied, *, dry_run: bool, force: bool
    ) -> Carried:
        """Write back what every entity of a change set was before it.

        Raises Conflict where one was changed since, unless `force`.
        """
        before, after = await self._around(chosen.change_set_id)
        steps, since = [], []
        for place, old in before.items():
            current = self._commands.view(place[0]).get(place[1])
            if place[0] is not ConfigurationApplied and (old or current):
                if not _same(current, after[place]):
                    since.append(place[1])
                steps.append(_back(place[1], old, current))
        if since and not force:
            raise Conflict(
                f"changed since by others: {', '.join(sorted(since))}",
                action="Take those changes back first, or insist with --force.",
            )
        if dry_run:
            return Carried(chosen.change_set_id, steps, {})
        old_set = before.get((ConfigurationApplied, chosen.key))
        manages = old_set.manages if isinstance(old_set, ConfigurationApplied) else []
        change_set_id, actor = uuid7(), f"rollback:{chosen.name}"
        summary = [f"{step.action} {step.kind} {step.id}" for step in steps]
        await self._announce(chosen.name, change_set_id, summary, manages, chosen.change_set_id)
        for place, old in before.items():
            if place[0] is not ConfigurationApplied:
                await self._restore(place, old, actor, change_set_id)
        return Carried(change_set_id, steps, {})

    async def _restore(
        self, place: Place, old: Change | None, actor: str, change_set_id: str
    ) -> None:
        kind: Any = place[0]
        current: Any = self._commands.view(kind).get(place[1])
        if old is not None:
            await self._put(old, current, actor, change_set_id)
        elif isinstance(current, KeyChanged):
            ended = msgspec.structs.replace(current, revoked=True)
            await self._put(ended, current, actor, change_set_id)
        elif current is not None:
            await self._commands.delete(kind, place[1], actor=actor, correlation_id=change_set_id)

    async def _around(
        self, change_set_id: str
    ) -> tuple[dict[Place, Change | None], dict[Place, Change]]:
        """Each entity of a change set as it was before, and as the set left it."""
        state: dict[Place, Change] = {}
        before: dict[Place, Change | None] = {}
        after: dict[Place, Change] = {}
        async for event, correlation in self._history(*self._commands.kinds):
            place: Place = (type(event), event.key)
            current = state.get(place)
            if not event.follows(current):
                continue
            if correlation == change_set_id:
                before.setdefault(place, current)
                after[place] = event
            if event.deleted:
                state.pop(place, None)
            else:
                state[place] = event
        return before, after

    async def _history(self, *kinds: type[Change]) -> Any:
        """Every change of these kinds up to now, with the change set that it belongs to."""
        topics = [*dict.fromkeys(kind.topic for kind in kinds)]
        async with self._log.reader(topics, Cursor()) as reader:
            ends = await reader.end_positions()
            while any(
                reader.cursor.next_offset(topic, partition) < end
                for topic, partitions in ends.items()
                for partition, end in partitions.items()
            ):
                for record in await reader.batch(_BATCH, 1.0):
                    if record.value is None:
                        continue
                    event = decode(record.value)
                    if isinstance(event, kinds):
                        correlation = record.header(CORRELATION)
                        yield event, correlation.decode() if correlation else None


def _in_order(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps that can go together: what others name is made first and removed last."""
    order = [kind.name for kind in KINDS] + [KEY]
    made = [[it for it in steps if it.kind == name and it.after is not None] for name in order]
    gone = [
        [it for it in steps if it.kind == name and it.after is None] for name in reversed(order)
    ]
    return [group for group in (*made, *gone) if group]


def _same(current: Change | None, left: Change) -> bool:
    """Whether an entity is as a change set left it."""
    if current is None or left.deleted:
        return current is None and left.deleted
    return facts(current) == facts(left)


def _back(key: str, old: Change | None, current: Change | None) -> Step:
    some = old or current
    assert some is not None, "an entity that was neither before nor is now was not changed"
    action = "restore" if old is not None else "remove"
    before, after = (None if it is None else _told(it) for it in (current, old))
    if isinstance(some, KeyChanged):
        return Step(KEY, some.name, key, action, before, after)
    kind = next(kind for kind in KINDS if kind.event is type(some))
    return Step(kind.name, kind.identify(some), key, action, before, after)


def _told(event: Change) -> dict[str, Any]:
    if isinstance(event, KeyChanged):
        ended = {"revoked": True} if event.revoked else {}
        return {**told(key_table(event)), **ended}
    kind = next(kind for kind in KINDS if kind.event is type(event))
    return told(kind.table(event))
