"""One base model in memory with any number of LoRA adapters, answering batches in which every row may
use another adapter.

Rows choose their adapter by `adapter_names`; nothing ever calls `set_adapter`, which would change the
model under everybody else. Not thread-safe: one thread owns an engine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Threads that wait must sleep: spinning, they take the cores from everybody else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import peft
import torch
import transformers

from schemas.errors import ModelLoadingError

BASE = "__base__"
"""The name by which peft calls the weights without any adapter."""


@dataclass(slots=True)
class Row:
    """One prompt being answered; set `cancelled` to end it at the next token."""

    prompt: list[int]
    adapter: str = BASE
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    cancelled: bool = False
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None


class Engine:
    """A base and its adapters. `device` defaults to the accelerator when there is one."""

    def __init__(self, base: Path, threads: int = 1) -> None:
        if threads:
            torch.set_num_threads(threads)
        on_gpu = torch.cuda.is_available()
        self.device = "cuda" if on_gpu else "cpu"
        try:
            # Answers are generated to the right, so prompts are padded to the left; the side is
            # not saved with a tokenizer.
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(base), padding_side="left", local_files_only=True
            )
            self._model = transformers.AutoModelForCausalLM.from_pretrained(
                str(base), dtype=torch.bfloat16 if on_gpu else torch.float32, local_files_only=True
            ).to(self.device)
        except (OSError, ValueError) as error:
            raise ModelLoadingError(f"cannot load the base model {base.name}: {error}") from error
        self._model.eval()
        self.context_length = int(self._model.config.max_position_embeddings)
        stop = self._model.generation_config.eos_token_id
        self._ends = set(stop if isinstance(stop, list) else [stop])
        self._with_adapters: Any = None
        self.adapters: set[str] = set()

    def load(self, name: str, folder: Path) -> None:
        """Add an adapter. Raises ModelLoadingError when it does not fit this base."""
        try:
            if self._with_adapters is None:
                self._with_adapters = peft.PeftModel.from_pretrained(
                    self._model, str(folder), adapter_name=name
                ).eval()
            else:
                self._with_adapters.load_adapter(str(folder), adapter_name=name)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelLoadingError(f"cannot load the adapter {name}: {error}") from error
        self.adapters.add(name)

    def unload(self, name: str) -> None:
        """Forget an adapter; peft keeps an empty shell when it was the last one."""
        if name in self.adapters:
            self.adapters.remove(name)
            self._with_adapters.delete_adapter(name)
            if not self.adapters:
                self._model, self._with_adapters = self._with_adapters.unload(), None

    def encode(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The tokens of a conversation, up to where the assistant begins to speak."""
        text = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        # Not `self.tokenizer(...)`: that sets padding first, which another thread's use forbids.
        return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def stream(self, rows: Sequence[Row]) -> Iterator[None]:
        """Answer all rows together; after each step their `text` and `finish_reason` have grown.

        Ends when every row has a reason: stop, length or cancelled.
        """
        generators = [_generator(row, self.device) for row in rows]
        longest = max(len(row.prompt) for row in rows)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor(
            [[pad] * (longest - len(r.prompt)) + r.prompt for r in rows], device=self.device
        )
        mask = torch.tensor(
            [[0] * (longest - len(r.prompt)) + [1] * len(r.prompt) for r in rows],
            device=self.device,
        )
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = transformers.DynamicCache()
        model, extra = self._model, {}
        if self._with_adapters is not None:
            model, extra = self._with_adapters, {"adapter_names": [row.adapter for row in rows]}
        while any(row.finish_reason is None for row in rows):
            logits = (
                model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    **extra,
                )
                .logits[:, -1]
                .float()
            )
            chosen = []
            for row, scores, generator in zip(rows, logits, generators, strict=True):
                token = _choose(scores, row, generator)
                self._accept(row, token)
                chosen.append(token)
            yield
            ids = torch.tensor(chosen, device=self.device)[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
            positions = positions[:, -1:] + 1

    def _accept(self, row: Row, token: int) -> None:
        """Add a token to a row that is still speaking, and see whether it has ended."""
        if row.finish_reason is not None:
            return
        if row.cancelled:
            row.finish_reason = "cancelled"
            return
        if token in self._ends:
            row.finish_reason = "stop"
            self._settle(row)
            return
        row.tokens.append(token)
        self._settle(row)
        for stop in row.stop:
            if (at := row.text.find(stop)) >= 0:
                row.text, row.finish_reason = row.text[:at], "stop"
                return
        used = len(row.prompt) + len(row.tokens)
        if len(row.tokens) >= row.max_tokens or used >= self.context_length:
            row.finish_reason = "length"

    def _settle(self, row: Row) -> None:
        """Decode what is whole; a character whose last bytes are still missing waits for them."""
        text = self.tokenizer.decode(row.tokens, skip_special_tokens=True)
        if row.finish_reason is not None or not text.endswith("\ufffd"):
            row.text = text


def _generator(row: Row, device: str) -> Any:
    if row.temperature <= 0:
        return None
    generator = torch.Generator(device=device)
    if row.seed is None:
        generator.seed()
    else:
        generator.manual_seed(row.seed)
    return generator


def _choose(scores: Any, row: Row, generator: Any) -> int:
    """The next token: the likeliest at temperature 0, else drawn from the nucleus of `top_p`."""
    if generator is None:
        return int(scores.argmax())
    chances, order = torch.softmax(scores / row.temperature, -1).sort(descending=True)
    chances[chances.cumsum(0) - chances >= row.top_p] = 0
    return int(order[torch.multinomial(chances, 1, generator=generator)])
