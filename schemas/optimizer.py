"""The optimizer's figures (RT-09..14), its words, and what a change of it means to a router."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import ConfigurationError
from schemas.events.optimizer import OptimizerActed

PROPOSED, ACTIVE, RESTORING = "proposed", "active", "restoring"
RESTORED, REVERTED, EXPIRED = "restored", "reverted", "expired"
WITHDRAWN = "withdrawn"
LIVE = frozenset({ACTIVE, RESTORING})
"""States in which a change is in force."""

ON, PROPOSE, OFF = "on", "propose", "off"
MODES = (ON, PROPOSE, OFF)
TUNED_MODEL = "tuned_model"
"""Turned on and off like a rule: whether what a tuned model has gained becomes a preference (RT-15)."""
RULE_NAMES = ("error_rate", "high_latency", "degradation", "cost", "load")
"""In the order in which they are asked: a target has one change at a time."""


@dataclass(frozen=True)
class OptimizerRules:
    """Figures of RT-09..14; times in seconds, shares within 0–1.

    Every `interval_s` each target with `calls_min` calls within `window_s` is looked at. A change
    takes at most `change_max` of what a target has, comes at least `cooldown_s` after the one
    before and ends after `expiry_s` unless it is renewed; one that did not help is not tried again
    for `expiry_s`. `probe_share` is what a target keeps in any case. `alpha` is the level of every
    test. A baseline counts from `baseline_calls_min` calls on, how
    much hours differ from `baseline_hours_min` hours on.
    """

    interval_s: float = 30.0
    window_s: float = 300.0
    calls_min: int = 20
    change_max: float = 0.5
    cooldown_s: float = 300.0
    expiry_s: float = 1800.0
    probe_share: float = 0.05
    alpha: float = 1e-3
    baseline_calls_min: int = 200
    baseline_hours_min: int = 48
    latency_factor: float = 1.5
    latency_max_ms: float = 5000.0
    error_shift: float = 0.05
    error_drain: float = 0.20
    quality_margin: float = 0.05
    saving_min: float = 0.20
    load_low: float = 0.30
    load_high: float = 0.80
    degradation: float = 0.15
    mode: str = ON

    def __post_init__(self) -> None:
        bounds = {
            "interval_s": (1.0, 3600.0),
            "window_s": (30.0, 1800.0),
            "calls_min": (5, 1_000_000),
            "change_max": (0.01, 0.5),
            "cooldown_s": (0.0, 86_400.0),
            "expiry_s": (self.cooldown_s, 86_400.0),
            "probe_share": (0.01, 0.5),
            "alpha": (1e-12, 0.05),
            "baseline_calls_min": (20, 1_000_000_000),
            "baseline_hours_min": (6, 160),
            "latency_factor": (1.05, 100.0),
            "latency_max_ms": (1.0, 3_600_000.0),
            "error_shift": (0.001, self.error_drain),
            "error_drain": (0.001, 1.0),
            "quality_margin": (0.0, 1.0),
            "saving_min": (0.01, 1.0),
            "load_low": (0.01, self.load_high),
            "load_high": (0.01, 1.0),
            "degradation": (0.01, 1.0),
        }
        for name, (least, most) in bounds.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigurationError(
                    f"the optimizer's {name} is {getattr(self, name)}, not within {least} to {most}",
                    action=f"Correct {name} in [optimizer] of weir.toml.",
                )
        if self.mode not in MODES:
            raise ConfigurationError(
                f"the optimizer's mode is {self.mode!r}, none of {', '.join(MODES)}",
                action="Correct mode in [optimizer] of weir.toml.",
            )


RULES = OptimizerRules()


def in_force(acted: OptimizerActed | None, at_us: int) -> bool:
    """Whether a change holds now. It ends by itself, so that nobody has to live to undo it."""
    return (
        acted is not None
        and acted.state in LIVE
        and acted.factor < 1.0
        and (acted.expires_at_us is None or at_us < acted.expires_at_us)
    )
