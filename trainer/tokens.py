"""Counts the tokens of examples with a base's own tokenizer: ``python -m trainer.tokens ORDER.json``.

A child of its own because the core environment has no tokenizers; it does not load torch.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from trainer.child import Speaker, die_with_parent, read_order
from trainer.config import CountOrder, Finished
from trainer.datasets import read_examples

AT_ONCE = 1000
"""Tokenising in one shot holds every encoding in memory: 2.3 GiB for 100,000 examples."""


def main() -> None:
    die_with_parent()
    speaker = Speaker()
    order = read_order(CountOrder)
    tokenizer = Tokenizer.from_file(str(Path(order.base) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    examples = read_examples(Path(order.examples))
    counts: list[int] = []
    for start in range(0, len(examples), AT_ONCE):
        texts = [
            f"{e.system_prompt}\n{e.user_prompt}\n{e.preferred_response}"
            for e in examples[start : start + AT_ONCE]
        ]
        counts += [len(e) for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    Path(order.counts).write_bytes(msgspec.json.encode(counts))
    speaker.say(Finished(metrics={"tokens": float(sum(counts))}))


if __name__ == "__main__":
    main()
