"""Answers held-out prompts with a base and its adapter: ``python -m trainer.generate ORDER.json``.

Every prediction is kept, one JSON line each; the child continues where a killed one stopped.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from trainer.child import Speaker, die_with_parent, read_order
from trainer.config import EvaluateOrder, Finished, Progress
from trainer.datasets import TrainingExample, messages_of, read_examples
from trainer.evaluation import BASELINE, TUNED, Prediction, metrics_of, predict, read_predictions
from trainer.inference import BASE, Engine, Row

ADAPTERS = {BASELINE: BASE, TUNED: TUNED}


def answer(
    engine: Engine, model_id: str, examples: list[TrainingExample], max_new_tokens: int
) -> list[Prediction]:
    """The greedy answers to one batch."""
    rows = [
        Row(engine.encode(messages_of(e)), ADAPTERS[model_id], max_new_tokens) for e in examples
    ]
    started = time.monotonic()
    ended = [0.0] * len(rows)
    for _ in engine.stream(rows):
        for index, row in enumerate(rows):
            if row.finish_reason is not None and not ended[index]:
                ended[index] = time.monotonic()
    return [
        predict(
            example_id=example.id,
            model_id=model_id,
            prompt=example.user_prompt,
            expected=example.preferred_response,
            actual=row.text,
            input_tokens=len(row.prompt),
            output_tokens=len(row.tokens),
            latency_ms=(end - started) * 1000,
        )
        for example, row, end in zip(examples, rows, ended, strict=True)
    ]


def main() -> None:
    die_with_parent()
    speaker = Speaker()
    order = read_order(EvaluateOrder)
    engine = Engine(Path(order.base), order.threads)
    engine.load(TUNED, Path(order.adapter))
    file = Path(order.predictions)
    done = read_predictions(file)
    file.write_bytes(b"".join(msgspec.json.encode(p) + b"\n" for p in done))
    answered = {(p.model_id, p.id) for p in done}
    examples = read_examples(Path(order.examples))
    for model_id in (BASELINE, TUNED):
        left = [e for e in examples if (model_id, e.id) not in answered]
        for start in range(0, len(left), order.batch_size):
            batch = answer(
                engine, model_id, left[start : start + order.batch_size], order.max_new_tokens
            )
            done += batch
            with file.open("ab") as stream:
                stream.write(b"".join(msgspec.json.encode(p) + b"\n" for p in batch))
            speaker.say(Progress(step=len(done), steps_total=2 * len(examples), epoch=0))
    metrics = {
        f"{model_id}_{name}": value
        for model_id in (BASELINE, TUNED)
        for name, value in metrics_of([p for p in done if p.model_id == model_id]).items()
    }
    speaker.say(Finished(metrics=metrics))


if __name__ == "__main__":
    main()
