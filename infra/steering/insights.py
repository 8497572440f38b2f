"""Recommendations (ANA-12): from what was measured, each with its figures and the action that does it."""

from __future__ import annotations

from decimal import Decimal

from infra.budgets_api import BudgetWindow
from infra.steering.board import SteeringBoard
from infra.steering.forms import Insight
from schemas.money import from_usd, to_usd

LIMIT_ROOM_PERCENT = 20
"""A budget that is short is proposed with so much more than its limit, or than what was spent of it."""


def insights(board: SteeringBoard) -> list[Insight]:
    """Return what is worth doing, the greatest effect first."""
    found = [*_proposals(board), *_providers(board), *_budgets(board)]
    return sorted(found, key=lambda one: (-one.effect, one.id))


def _proposals(board: SteeringBoard) -> list[Insight]:
    """Changes that the optimizer would make if its rule let it."""
    found = []
    for act in board.proposals():
        share = act.share_before or 0.0
        to = f" to {act.alternative}" if act.alternative else ""
        found.append(
            Insight(
                id=f"proposal:{act.target}",
                kind="proposal",
                title=f"Shift {1 - act.factor:.0%} of the calls of {act.target}{to}: {act.reason}",
                effect=round(share * (1 - act.factor), 4),
                data={
                    "rule": act.rule,
                    "metric": act.metric,
                    "before": act.before,
                    "share": act.share_before,
                    "evidence": act.evidence,
                },
                action="apply_change",
                params={"target": act.target},
            )
        )
    return found


def _providers(board: SteeringBoard) -> list[Insight]:
    """Providers that fail so much that they had better not be called, while another serves."""
    every = board.providers()
    if all(one.status != "healthy" for one in every):
        return []
    return [
        Insight(
            id=f"provider:{one.name}",
            kind="provider",
            title=f"Take {one.name} out: {one.success_rate:.0%} of its calls succeed",
            effect=round(one.share * (1 - one.success_rate), 4),
            data={"success_rate": one.success_rate, "tasks": one.tasks, "share": one.share},
            action="set_provider_enabled",
            params={"provider": one.name, "enabled": False},
        )
        for one in every
        if one.status == "unhealthy" and one.success_rate is not None
    ]


def _budgets(board: SteeringBoard) -> list[Insight]:
    """Budgets whose limit is reached, or nearly so; their effect is by how much they are too small."""
    found = []
    for one in board.whole_budgets():
        short = [it for it in one.owners[0].windows if it.status != "ok" and Decimal(it.limit)]
        if not short:
            continue
        limits = {f"{it.window}_limit_usd": _raised(it) for it in short}
        over = max(Decimal(it.projected or it.spent) / Decimal(it.limit) - 1 for it in short)
        found.append(
            Insight(
                id=f"budget:{one.id}",
                kind="budget",
                title=f"Raise the budget {one.id}: {one.percent:.0f}% of it is spent",
                effect=round(min(1.0, max(0.0, float(over))), 4),
                data={"limit": one.limit, "spent": one.spent, "projected": one.projected},
                action="update_budget",
                params={"budget_id": one.id, **limits},
            )
        )
    return found


def _raised(window: BudgetWindow) -> str:
    base = max(from_usd(window.limit), from_usd(window.spent))
    return to_usd(base + base * LIMIT_ROOM_PERCENT // 100)
