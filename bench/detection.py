"""Claim: what a prompt asks for is told from held-out prompts, in a fraction of a millisecond.

The prompts of `bench/data/detection.jsonl` were written one by one after the trainer's and share no
generator with them. Each is detected `--size` times in a drawn order for the time; `--sabotage`
shifts the labels of a tenth of them by one.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from bench.claim import Arguments, Limit, Verdict, main
from gateway.asking import bounded
from gateway.detection.detector import MODEL_FILE, TASKS, Detector
from infra.cli_route import scores

PROMPTS = Path(__file__).with_name("data") / "detection.jsonl"
LONG_CHARS = 100_000
"""Beside the prompts as they are one that is far longer than what is read of it."""


def measure(arguments: Arguments) -> Verdict:
    """Detect every held-out prompt, and time it."""
    rng = random.Random(arguments.seed)
    rows = [json.loads(line) for line in PROMPTS.read_text("utf-8").splitlines()]
    detector = Detector.load()
    pairs, found = [], []
    for number, row in enumerate(rows):
        label = row["label"]
        if arguments.sabotage and number % 10 == 0:
            label = TASKS[(TASKS.index(label) + 1) % len(TASKS)]
        detected = detector.detect(bounded(row["prompt"]))
        pairs.append((label, detected.task_type))
        found.append({**row, "expected": label, "found": detected.task_type})
    ledger = arguments.out / "prompts.jsonl"
    ledger.write_text("".join(json.dumps(row) + "\n" for row in found), "utf-8")
    texts = [row["prompt"] for row in rows] * arguments.size
    texts += [("lorem ipsum " * LONG_CHARS)[:LONG_CHARS]] * (len(texts) // 20)
    rng.shuffle(texts)
    times_ms = sorted(_timed_ms(detector, text) for text in texts)
    judged = scores(pairs)
    return Verdict(
        figures={
            "prompts": len(rows),
            "macro_f1": judged["macro_f1"],
            "accuracy": judged["accuracy"],
            "f1": judged["f1"],
            "p50_ms": round(times_ms[len(times_ms) // 2], 3),
            "p99_ms": round(times_ms[int(len(times_ms) * 0.99)], 3),
            "model_bytes": MODEL_FILE.stat().st_size,
        },
        limits=[
            Limit("prompts", 500, "min"),
            Limit("macro_f1", 0.85, "min"),
            Limit("p99_ms", 5.0),
            Limit("model_bytes", 1_000_000),
        ],
    )


def _timed_ms(detector: Detector, text: str) -> float:
    """Return the milliseconds of one detection, by the thread's own clock: others use the cores too."""
    began_ns = time.thread_time_ns()
    detector.detect(bounded(text))
    return (time.thread_time_ns() - began_ns) / 1e6


if __name__ == "__main__":
    main("detection", 10, measure)
