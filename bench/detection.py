"""Claim: what a prompt asks for is told from held-out prompts, in a fraction of a millisecond.

The prompts of `bench/data/detection.jsonl` were written one by one after the trainer's and share no
generator with them; those of `detection_styles.jsonl` are a second set, written before half of the trainer's were,
in other styles and twelve languages, with their complexity. Each of both is detected `--size` times in a
drawn order for the time; `--sabotage` shifts the labels of a tenth of them by one.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.claim import Arguments, Limit, Verdict, main
from gateway.asking import bounded
from gateway.detection.detector import MODEL_FILE, TASKS, Detector
from infra.cli_route import scores

DATA = Path(__file__).with_name("data")
PROMPTS, STYLES = DATA / "detection.jsonl", DATA / "detection_styles.jsonl"
CONFUSED = 6
"""How many kinds of mistakes are told."""
LONG_CHARS = 100_000
"""Beside the prompts as they are one that is far longer than what is read of it."""


def measure(arguments: Arguments) -> Verdict:
    """Detect every held-out prompt, and time it."""
    rng = random.Random(arguments.seed)
    detector = Detector.load()
    found = {path: _judged(detector, path, arguments.sabotage) for path in (PROMPTS, STYLES)}
    rows = [row for judged in found.values() for row in judged]
    ledger = arguments.out / "prompts.jsonl"
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    texts = [row["prompt"] for row in rows] * arguments.size
    texts += [("lorem ipsum " * LONG_CHARS)[:LONG_CHARS]] * (len(texts) // 20)
    rng.shuffle(texts)
    times_ms = sorted(_timed_ms(detector, text) for text in texts)
    judged, styles = (
        scores([(row["expected"], row["found"]) for row in found[path]])
        for path in (PROMPTS, STYLES)
    )
    grades = scores([(row["complexity"], row["graded"]) for row in found[STYLES]])
    mistakes = Counter(
        f"{row['expected']} as {row['found']}" for row in rows if row["expected"] != row["found"]
    )
    return Verdict(
        figures={
            "prompts": len(found[PROMPTS]),
            "macro_f1": judged["macro_f1"],
            "accuracy": judged["accuracy"],
            "f1": judged["f1"],
            "styles_prompts": len(found[STYLES]),
            "styles_macro_f1": styles["macro_f1"],
            "styles_f1": styles["f1"],
            "complexity_macro_f1": grades["macro_f1"],
            "complexity_f1": grades["f1"],
            "confused": dict(mistakes.most_common(CONFUSED)),
            "p50_ms": round(times_ms[len(times_ms) // 2], 3),
            "p99_ms": round(times_ms[int(len(times_ms) * 0.99)], 3),
            "model_bytes": MODEL_FILE.stat().st_size,
        },
        limits=[
            Limit("prompts", 500, "min"),
            Limit("macro_f1", 0.85, "min"),
            Limit("styles_macro_f1", 0.85, "min"),
            Limit("complexity_macro_f1", 0.65, "min"),
            Limit("p99_ms", 5.0),
            Limit("model_bytes", 1_000_000),
        ],
    )


def _judged(detector: Detector, path: Path, spoilt: bool) -> list[dict[str, Any]]:
    """Return the prompts of a file with what is expected and what is found."""
    judged = []
    for number, line in enumerate(path.read_text("utf-8").splitlines()):
        row = json.loads(line)
        label = row["label"]
        if spoilt and number % 10 == 0:
            label = TASKS[(TASKS.index(label) + 1) % len(TASKS)]
        detected = detector.detect(bounded(row["prompt"]))
        seen = {"expected": label, "found": detected.task_type, "graded": detected.complexity}
        judged.append({**row, **seen})
    return judged


def _timed_ms(detector: Detector, text: str) -> float:
    """Return the milliseconds of one detection, by the thread's own clock: others use the cores too."""
    began_ns = time.thread_time_ns()
    detector.detect(bounded(text))
    return (time.thread_time_ns() - began_ns) / 1e6


if __name__ == "__main__":
    main("detection", 10, measure)
