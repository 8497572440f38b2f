"""What a tuned model has gained by task, as routing sees it: its quality (RT-15)."""

from __future__ import annotations

from dataclasses import replace

from gateway.utility import QUALITY_UNKNOWN
from schemas.events.preferences import PreferenceChanged
from schemas.optimizer import ACTIVE
from schemas.routing import Target


def preferred(tuned: Target, baseline: Target | None, change: PreferenceChanged) -> Target:
    """Return a tuned target with the quality that its measured gains give it over its baseline's.

    Where nothing was measured it is as good as its baseline, beside which it passed as a canary. A
    target whose deployment is another one than the measured is left as it is.
    """
    if change.state != ACTIVE or tuned.deployment_id != change.deployment_id:
        return tuned
    quality = baseline.quality if baseline is not None else None
    by_task = dict(baseline.task_quality) if baseline is not None else {}
    usual = QUALITY_UNKNOWN if quality is None else quality
    for task, gain in change.gains.items():
        by_task[task] = round(min(1.0, max(0.0, by_task.get(task, usual) + gain)), 4)
    return replace(tuned, quality=quality, task_quality=by_task)
