"""The share of a target's traffic that its canaries take (CANARY-03).

A user stays on one side: the side follows from a hash of the user and the baseline, so that who is
with one canary says nothing about who is with another, and a growing percentage only adds users.
Over all users the hash is a fair draw, so the recorded propensity is the percentage's.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.state import GatewayState
from schemas.events.canaries import trial_of
from schemas.events.changes import DeploymentChanged
from schemas.routing import Target

SPLIT_STATES = frozenset({"observing", "analyzing", "promoting"})
BUCKETS = 1 << 32


@dataclass(frozen=True, slots=True)
class Split:
    """A canary takes the share `low`–`high` (within 0–1) of its baseline's users."""

    target: Target
    trial: str
    low: float
    high: float

    @property
    def share(self) -> float:
        """Which part of the baseline's traffic."""
        return self.high - self.low


def splits(state: GatewayState) -> Mapping[str, list[Split]]:
    """Return the running canaries by the id of the target whose traffic they share.

    A baseline is named by its deployment or, where it is none of ours, as ``provider/model``.
    Together the canaries of one target take no more than all of it.
    """
    found: dict[str, list[Split]] = {}
    taken: dict[str, float] = {}
    for event in sorted(state.deployments.entries.values(), key=lambda item: item.deployment_id):
        baseline = _baseline(state, event)
        canary = state.targets.get(f"{event.provider}/{event.model}")
        if baseline is None or canary is None or canary.provider not in state.providers:
            continue
        low = taken.get(baseline, 0.0)
        high = min(1.0, low + event.percentage / 100)
        taken[baseline] = high
        trial = trial_of(event.deployment_id, event.percentage)
        found.setdefault(baseline, []).append(Split(canary, trial, low, high))
    return found


def _baseline(state: GatewayState, event: DeploymentChanged) -> str | None:
    named = event.baseline_deployment_id
    if event.state not in SPLIT_STATES or event.percentage <= 0 or named is None:
        return None
    deployed = state.deployments.get(named)
    return named if deployed is None else f"{deployed.provider}/{deployed.model}"


def side(found: Sequence[Split], baseline: Target, who: str) -> Split | None:
    """Return the canary that serves `who`, None for the baseline."""
    point = _mixed(zlib.crc32(f"{baseline.id}\0{who}".encode())) / BUCKETS
    for split in found:
        if split.low <= point < split.high:
            return split
    return None


def _mixed(value: int) -> int:
    """Spread a checksum over all 32 bits: alone it is linear in its input (MurmurHash3's finalizer,
    https://github.com/aappleby/smhasher/blob/master/src/MurmurHash3.cpp).
    """
    value = (value ^ (value >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
    value = (value ^ (value >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return value ^ (value >> 16)
