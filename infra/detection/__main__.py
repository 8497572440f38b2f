"""``python -m infra.detection``: make prompts, learn from them, store the gateway's model."""

from __future__ import annotations

import argparse
from pathlib import Path

from gateway.detection.detector import MODEL_FILE
from infra.detection.examples import made, repeated, written
from infra.detection.grammar import load
from infra.detection.train import calibrated, model, sharpened, store

PER_TASK = 3_000
SEED = 1
REPEATS = 10
"""How often a written prompt is learned from, changed anew each time."""
UNSEEN = 4
"""One of so many written prompts is kept back to find out how sure the model may be."""


def main() -> None:
    """Train and store."""
    parser = argparse.ArgumentParser(prog="python -m infra.detection", description=__doc__)
    parser.add_argument("--per-task", type=int, default=PER_TASK, help="prompts made of each task")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=MODEL_FILE)
    given = parser.parse_args()
    grammar, real = load(), written()
    prompts = made(grammar, given.per_task, given.seed)
    print(f"{len(prompts)} prompts made, {len(real)} written")
    # How sure the model may be is learned from written prompts that it has not seen.
    unseen, rest = real[::UNSEEN], [p for i, p in enumerate(real) if i % UNSEEN]
    again = repeated(grammar, rest, REPEATS, given.seed)
    sharpness = calibrated(model([*prompts, *again], given.seed), unseen)
    print(f"sharpness {sharpness:.2f}")
    again = repeated(grammar, real, REPEATS, given.seed)
    detector = sharpened(model([*prompts, *again], given.seed), sharpness)
    print(f"{given.out}: {store(detector, given.out)} bytes")


if __name__ == "__main__":
    main()
