"""``python -m infra.detection``: make prompts, learn from them, store the gateway's model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gateway.detection.detector import COMPLEXITIES, MODEL_FILE, Detector
from infra.cli_route import scores
from infra.detection.examples import DEVELOPMENT, made, repeated, written
from infra.detection.grammar import Prompt, load
from infra.detection.train import calibrated, calibration_error, graded, model, sharpened, store

PER_TASK = 800
SEED = 1
REPEATS = 6
"""How often a written prompt is learned from, changed anew each time."""


def main() -> None:
    """Train, set the model's sureness by the development set, tell how good it is there, store."""
    parser = argparse.ArgumentParser(prog="python -m infra.detection", description=__doc__)
    parser.add_argument("--per-task", type=int, default=PER_TASK, help="prompts made of each task")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=MODEL_FILE)
    given = parser.parse_args()
    grammar, real, unseen = load(), written(), written(DEVELOPMENT)
    # A grammar grades a pattern, not the prompt made of it: complexity is learned from people.
    prompts = [replace(p, complexity="") for p in made(grammar, given.per_task, given.seed)]
    print(f"{len(prompts)} prompts made, {len(real)} written, {len(unseen)} kept for judging")
    prompts += repeated(grammar, real, REPEATS, given.seed)
    raw = model(prompts, given.seed)
    detector = graded(sharpened(raw, calibrated(raw, unseen)), unseen)
    print(f"{given.out}: {store(detector, given.out)} bytes")
    for line in judged(detector, unseen):
        print(line)


def judged(detector: Detector, prompts: Sequence[Prompt]) -> list[str]:
    """Return how well a detector does on prompts it has not learned from, line by line."""
    found = [detector.detect(prompt.text, prompt.system) for prompt in prompts]
    tasks = scores([(p.task, f.task_type) for p, f in zip(prompts, found, strict=True)])
    grades = scores([(p.complexity, f.complexity) for p, f in zip(prompts, found, strict=True)])
    error = calibration_error(detector, prompts)
    by_grade = " ".join(f"{grade} {grades['f1'].get(grade, 0.0)}" for grade in COMPLEXITIES)
    return [
        f"task: macro-F1 {tasks['macro_f1']}, calibration error {error:.3f}",
        f"complexity: macro-F1 {grades['macro_f1']} ({by_grade})",
    ]


if __name__ == "__main__":
    main()
