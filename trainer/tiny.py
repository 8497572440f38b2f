"""Builds and pretrains the tiny base model: no weights to download, about a minute on two cores.

A Llama of 0.7 million parameters over the language of `trainer.corpus`, saved as transformers reads
it: config.json, model.safetensors, tokenizer with chat template, and `weir.json` with the recipe
that suits a model of this size. Needs torch: it runs in the trainer's environment, as
``python -m trainer.tiny OUT [--seed N]``.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Threads that wait must sleep: spinning, they take the cores from everybody else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import msgspec
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainer import corpus

PAD, END = "<|pad|>", "<|end|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT_LENGTH = 512
VOCABULARY_MAX = 2048
RECIPE: dict[str, float | int | str] = {
    "num_epochs": 40,
    "batch_size": 8,
    "learning_rate": 2e-3,
    "warmup_steps": 8,
    "weight_decay": 0.0,
    "lora_rank": 16,
    "lora_alpha": 32,
    "eval_steps": 8,
    "save_steps": 8,
    "logging_steps": 4,
    "early_stopping_patience": 6,
    "model_max_length": CONTEXT_LENGTH,
}
"""The defaults of TRAIN-01 suit models a hundred times larger; a base may bring its own."""


def build_tokenizer() -> Any:
    """A byte-level BPE in which every word of the language, in each letter case, is one token.

    Blanks are tokens of their own, so a word is the same token wherever it stands; any other text
    falls back to bytes.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[A-Za-z]+|\d|\s|[^\sA-Za-z\d]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus.vocabulary_lines(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY_MAX,
            min_frequency=1,
            special_tokens=[PAD, END, SYSTEM, USER, ASSISTANT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def build_model(vocabulary: int) -> Any:
    """An untrained Llama small enough for a laptop."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT_LENGTH,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            # The usual 0.02 suits width 4096; at 128 attention starts flat and learns nothing for
            # hundreds of steps.
            initializer_range=0.08,
        )
    )


def pretrain(
    model: Any,
    tokenizer: Any,
    *,
    seed: int,
    steps: int,
    batch: int,
    report: Callable[[int, float], None],
) -> float:
    """Teach `model` the language on answers alone; return the mean loss of the last 20 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / 40, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))
        ),
    )
    recent: list[float] = []
    model.train()
    for step, (ids, mask, labels) in enumerate(
        itertools.islice(_batches(tokenizer, seed, batch), steps)
    ):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        recent = [*recent[-19:], float(loss.detach())]
        if (step + 1) % 50 == 0:
            report(step + 1, sum(recent) / len(recent))
    model.eval()
    return sum(recent) / len(recent)


def _batches(tokenizer: Any, seed: int, size: int) -> Iterator[tuple[Any, Any, Any]]:
    """Endless (ids, mask, labels); only what the assistant says is a label."""
    assistant = tokenizer.convert_tokens_to_ids(ASSISTANT)
    conversations = corpus.conversations(seed)
    while True:
        texts = [
            tokenizer.apply_chat_template(messages, tokenize=False)
            for messages in itertools.islice(conversations, size)
        ]
        encoded = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        opened = ids == assistant
        spoken = (opened.cumsum(1) > 0) & ~opened & (mask == 1)
        yield ids, mask, ids.masked_fill(~spoken, -100)


def build_tiny_base(
    out_dir: Path,
    seed: int = 0,
    *,
    steps: int = 500,
    batch: int = 48,
    threads: int = 2,
    report: Callable[[str], None] = print,
) -> Path:
    """Build, pretrain and save a tiny base under `out_dir`, which appears whole or not at all."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    started = time.monotonic()
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer))
    count = sum(parameter.numel() for parameter in model.parameters())
    report(f"tiny base: {count:,} parameters, {len(tokenizer)} tokens, {steps} steps")
    loss = pretrain(
        model,
        tokenizer,
        seed=seed,
        steps=steps,
        batch=batch,
        report=lambda step, value: report(
            f"step {step}/{steps}  loss {value:.3f}  {time.monotonic() - started:.0f} s"
        ),
    )
    partial = out_dir.with_name(f"{out_dir.name}.partial-{os.getpid()}")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    about = {
        "name": out_dir.name,
        "seed": seed,
        "parameters": count,
        "pretraining_steps": steps,
        "pretraining_loss": round(loss, 4),
        "hyperparameters": RECIPE,
    }
    (partial / "weir.json").write_bytes(msgspec.json.format(msgspec.json.encode(about)) + b"\n")
    if out_dir.exists():
        shutil.rmtree(out_dir)
    partial.rename(out_dir)
    report(f"saved {out_dir} after {time.monotonic() - started:.0f} s")
    return out_dir


def main() -> None:
    """Command line: ``python -m trainer.tiny OUT [--seed N] [--steps N] [--threads N]``."""
    parser = argparse.ArgumentParser(prog="trainer.tiny", description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)

    def show(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    build_tiny_base(
        options.out, options.seed, steps=options.steps, threads=options.threads, report=show
    )


if __name__ == "__main__":
    main()
