"""Files of settings that were applied as a whole."""

from __future__ import annotations

import msgspec

from schemas.event import Topic
from schemas.events.changes import Change

CONFIGURATION = Topic("weir.configuration.changes.v1", partitions=1)


class ConfigurationApplied(Change, frozen=True, kw_only=True):
    """A change set begins: what it will write carries its id as correlation id.

    It comes first, so of two that were made of one version only one writes anything. `manages` are
    the entities (``kind|id``) that the file names; those that its next version no longer
    names are removed. `reverts` is the change set whose effect this one takes back.
    """

    topic = CONFIGURATION
    type = "weir.configuration.applied"

    name: str
    change_set_id: str
    summary: list[str]
    manages: list[str] = msgspec.field(default_factory=list)
    reverts: str | None = None

    @property
    def key(self) -> str:
        return self.name
