"""RT-15: what a tuned model gained by task becomes a preference, once its canary has passed.

The trainer measures gains on examples that neither model was trained on; only those count whose
interval lies above zero. The canary has passed when a deployment that took a share of a baseline's
traffic is promoted. The preference is withdrawn when the deployment is no longer promoted, when
people like the tuned model less than its baseline, and when it is turned off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from schemas.events.changes import ModelVersionChanged
from schemas.events.preferences import PreferenceChanged
from schemas.optimizer import ACTIVE, OFF, ON, PROPOSED, TUNED_MODEL, WITHDRAWN
from schemas.rewards import TASK_TYPES
from schemas.statistics import rises
from streams.decider import decision_id
from streams.optimizer.rule import WORSE_ALPHA
from streams.optimizer.scene import Scene, Sums

GAIN, GAIN_LOWER = "gain", "gain_lower"
LIKED = "liked_share"


def due(
    scene: Scene, known: Mapping[str, PreferenceChanged], mode: str
) -> Iterator[PreferenceChanged]:
    """Yield the preferences that change now."""
    wanted = {} if mode == OFF else dict(_wanted(scene))
    for target in sorted({*wanted, *known}):
        last, want = known.get(target), wanted.get(target)
        if last is not None and last.state != WITHDRAWN:
            why = _why_not(scene, last, want, mode)
            if why is not None:
                yield _next(scene, msgspec.structs.replace(last, state=WITHDRAWN, **why), last)
                continue
        if want is None or (last is not None and _settled(last, want, mode)):
            continue
        state = ACTIVE if mode == ON else PROPOSED
        yield _next(scene, msgspec.structs.replace(want, state=state), last)


def _wanted(scene: Scene) -> Iterator[tuple[str, PreferenceChanged]]:
    """Yield, by target, what passed canaries have shown."""
    config = scene.config
    for deployment in config.passed:
        version = config.versions.get(deployment.model_version_id)
        baseline = config.baseline(deployment)
        gains = gains_of(version) if version is not None else {}
        if version is None or baseline is None or not gains:
            continue
        metric = version.metadata.get("gate_metric", "score")
        told = ", ".join(f"{task} {gain:+.2f}" for task, gain in gains.items())
        yield (
            f"{deployment.provider}/{deployment.model}",
            PreferenceChanged(
                event_id="",
                occurred_at_us=scene.at_us,
                target=f"{deployment.provider}/{deployment.model}",
                baseline=baseline,
                deployment_id=deployment.deployment_id,
                model_version_id=deployment.model_version_id,
                state=ACTIVE,
                reason=f"its canary beside {baseline} has passed; measured gain: {told}",
                metric=metric,
                before=version.metrics.get(f"baseline_{metric}"),
                after=version.metrics.get(f"tuned_{metric}"),
                gains=gains,
                number=0,
            ),
        )


def gains_of(version: ModelVersionChanged) -> dict[str, float]:
    """Return the gains by task that chance does not explain."""
    metrics = version.metrics
    return {
        task: metrics[f"{GAIN}_{task}"]
        for task in sorted(TASK_TYPES)
        if f"{GAIN}_{task}" in metrics and metrics.get(f"{GAIN_LOWER}_{task}", 0.0) > 0.0
    }


def _why_not(
    scene: Scene, last: PreferenceChanged, want: PreferenceChanged | None, mode: str
) -> dict[str, object] | None:
    """Return what a withdrawal says, None while the preference stands."""
    if mode == OFF:
        return {"reason": "it was turned off"}
    if want is None or want.model_version_id != last.model_version_id:
        return {"reason": f"{last.deployment_id} is {scene.config.state_of(last.deployment_id)}"}
    seconds = (scene.at_us - last.occurred_at_us) // 1_000_000
    here, there = (
        scene.memory.hours(target, scene.at_us, seconds) for target in (last.target, last.baseline)
    )
    if rises(_disliked(there), _disliked(here)) >= WORSE_ALPHA:
        return None
    liked, liked_there = 1 - here.displeased, 1 - there.displeased
    return {
        "reason": f"people like {liked:.0%} of its answers, {liked_there:.0%} of {last.baseline}'s",
        "metric": LIKED,
        "before": round(liked_there, 5),
        "after": round(liked, 5),
    }


def _disliked(sums: Sums) -> tuple[int, int]:
    return sums.disliked, sums.opinions


def _settled(last: PreferenceChanged, want: PreferenceChanged, mode: str) -> bool:
    """Whether nothing new is to be said: a version that people did not like is not tried again."""
    if last.model_version_id != want.model_version_id:
        return False
    if last.state == WITHDRAWN:
        return last.metric == LIKED
    return last.state == (ACTIVE if mode == ON else PROPOSED) and last.gains == want.gains


def _next(
    scene: Scene, change: PreferenceChanged, last: PreferenceChanged | None
) -> PreferenceChanged:
    number = 1 if last is None else last.number + 1
    return msgspec.structs.replace(
        change,
        event_id=decision_id(TUNED_MODEL, f"{change.target}#{number}"),
        occurred_at_us=scene.at_us,
        number=number,
    )
