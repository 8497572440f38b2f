"""The task and the complexity of a prompt, by two linear models over one set of features."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.detection.features import BITS, features

MODEL_FILE = Path(__file__).with_name("model.npz")
GENERAL = "general"
TASKS = (
    "creative",
    "analytical",
    "conversational",
    "code",
    "summarization",
    "extraction",
    GENERAL,
)
COMPLEXITIES = ("simple", "standard", "complex")
CONFIDENCE_MIN = 0.5
"""Below this the task is `general` (RT-06)."""


class Detected(msgspec.Struct, frozen=True):
    """What a prompt asks for. `confidence` is the probability of the likeliest task."""

    task_type: str
    confidence: float
    complexity: str


class Detector:
    """Holds the weights: one row per feature, one column per task and per complexity."""

    def __init__(
        self,
        weights: NDArray[np.int8],
        scales: NDArray[np.float32],
        shifts: NDArray[np.float32],
    ) -> None:
        self.weights = weights
        self.scales = scales
        self.shifts = shifts

    @classmethod
    def load(cls, path: Path = MODEL_FILE) -> Detector:
        """Read the model that `python -m infra.detection` makes."""
        with np.load(path) as stored:
            weights, scales, shifts = stored["weights"], stored["scales"], stored["shifts"]
        shape = (1 << BITS, len(TASKS) + len(COMPLEXITIES))
        if weights.shape != shape:
            raise ValueError(f"{path.name} holds weights of shape {weights.shape}, not {shape}")
        return cls(weights, scales, shifts)

    def detect(self, asked: str, system: str = "") -> Detected:
        """Return what a prompt asks for; both texts are bounded by the caller."""
        if not asked.strip():
            return Detected(GENERAL, 0.0, "simple")
        scores = self.scores(asked, system)
        tasks, grades = _shares(scores[: len(TASKS)]), scores[len(TASKS) :]
        first = int(tasks.argmax())
        confidence = float(tasks[first])
        return Detected(
            TASKS[first] if confidence >= CONFIDENCE_MIN else GENERAL,
            round(confidence, 4),
            COMPLEXITIES[int(grades.argmax())],
        )

    def scores(self, asked: str, system: str = "") -> NDArray[np.float32]:
        """Return the models' sums for each task, then each complexity."""
        indexes, values = features(asked, system)
        rows = self.weights[indexes].astype(np.float32)
        sums: NDArray[np.float32] = (values @ rows) * self.scales + self.shifts
        return sums


def _shares(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    powers: NDArray[np.float32] = np.exp(scores - scores.max())
    powers /= powers.sum()
    return powers
