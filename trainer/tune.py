"""The fine-tune itself, a child process: ``python -m trainer.tune ORDER.json``.

LoRA (or full) supervised fine-tuning by transformers, peft and TRL. Started again on the same order
it continues from its last whole checkpoint: optimizer, schedule, random state and data order
included, so the loss goes on as if nothing had happened.
"""

from __future__ import annotations

import gc
import shutil
import time
from pathlib import Path
from typing import Any

import datasets
import msgspec
import peft
import psutil
import torch
import transformers
import trl

from trainer.child import Speaker, die_with_parent, read_order
from trainer.config import Finished, Notice, Progress, TuneOrder, TuningConfig
from trainer.datasets import TrainingExample, messages_of, read_examples

WHOLE = "weir-whole"
"""Marks a checkpoint that was written to its end; any other is dropped on the next start."""


class Reporter(transformers.TrainerCallback):  # type: ignore[misc]
    """Turns the training loop's callbacks into progress lines, and bounds its time."""

    def __init__(self, speaker: Speaker, seconds_max: float) -> None:
        self.speaker = speaker
        self.seconds_max = seconds_max
        self.started = time.monotonic()
        self.first_step = 0
        self.timed_out = False
        self._tokens = (self.started, 0.0)

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self.started, self.first_step = time.monotonic(), state.global_step

    def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        if time.monotonic() - self.started > self.seconds_max:
            self.timed_out = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or ("loss" not in logs and "eval_loss" not in logs):
            return
        now = time.monotonic()
        done = state.global_step - self.first_step
        left = state.max_steps - state.global_step
        self.speaker.say(
            Progress(
                step=state.global_step,
                steps_total=state.max_steps,
                epoch=round(state.epoch or 0.0, 4),
                training_loss=logs.get("loss"),
                validation_loss=logs.get("eval_loss"),
                learning_rate=logs.get("learning_rate"),
                tokens_per_second=self._speed(now, logs.get("num_tokens")),
                memory_bytes=_memory_bytes(),
                eta_seconds=round((now - self.started) / done * left, 1) if done else None,
            )
        )

    def _speed(self, now: float, tokens: float | None) -> float | None:
        if tokens is None:
            return None
        before, counted = self._tokens
        self._tokens = (now, tokens)
        return round((tokens - counted) / (now - before), 1) if counted else None


def _memory_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)


def load_base(order_base: str, config: TuningConfig, speaker: Speaker) -> Any:
    """The base model on the best device, quantized as ordered; a wish that is not met is said."""
    on_gpu = torch.cuda.is_available()
    eight, four = config.use_8bit and not config.use_4bit, config.use_4bit
    if eight and not on_gpu:
        speaker.say(Notice(message="8-bit is off: it needs CUDA to be worth its cost"))
        eight = False
    bf16 = config.precision == "bf16" or (config.precision == "auto" and on_gpu)
    dtype = torch.bfloat16 if bf16 else torch.float32
    quantization = None
    if eight or four:
        quantization = transformers.BitsAndBytesConfig(
            load_in_8bit=eight,
            load_in_4bit=four,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
        )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        order_base,
        dtype=dtype,
        quantization_config=quantization,
        device_map={"": 0} if on_gpu else None,
        local_files_only=Path(order_base).exists(),
    )
    if quantization is not None:
        assert_quantized(model, "Linear4bit" if four else "Linear8bitLt")
        model = peft.prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=config.gradient_checkpointing
        )
    return model


def assert_quantized(model: Any, kind: str) -> None:
    """Raise RuntimeError unless quantized layers are really there: the flag alone proves nothing."""
    if not any(type(module).__name__ == kind for module in model.modules()):
        raise RuntimeError(f"the base was to be quantized but holds no {kind}")


def load_tokenizer(base: str) -> Any:
    """The tokenizer of a base, padding on the right for training: the side is not saved with it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base, padding_side="right")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _rows(file: str) -> Any:
    """Prompt-completion conversations: the loss is taken on the completion alone."""

    def row(example: TrainingExample) -> dict[str, Any]:
        answer = {"role": "assistant", "content": example.preferred_response}
        return {"prompt": messages_of(example), "completion": [answer]}

    return datasets.Dataset.from_list([row(example) for example in read_examples(Path(file))])


def arguments(order: TuneOrder, batch: int, accumulation: int) -> Any:
    """TRL's arguments; what it defaults to for large GPUs (bf16, checkpointing) is set by us."""
    config, on_gpu = order.config, torch.cuda.is_available()
    evaluate = order.stopping is not None
    return trl.SFTConfig(
        output_dir=order.work,
        num_train_epochs=config.num_epochs,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=config.gradient_checkpointing,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        lr_scheduler_type=config.scheduler,
        logging_steps=config.logging_steps,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        save_total_limit=None,
        load_best_model_at_end=evaluate,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        seed=config.seed,
        data_seed=config.seed,
        bf16=config.precision == "bf16" or (config.precision == "auto" and on_gpu),
        fp16=False,
        use_cpu=not on_gpu,
        max_length=config.model_max_length,
        packing=False,
        completion_only_loss=True,
        dataloader_pin_memory=on_gpu,
        report_to="none",
        disable_tqdm=True,
    )


def build(order: TuneOrder, speaker: Speaker, batch: int, accumulation: int) -> tuple[Any, Any]:
    """The loop, ready to run or to continue, and the reporter that listens to it."""
    config = order.config
    transformers.set_seed(config.seed)
    tokenizer = load_tokenizer(order.base)
    reporter = Reporter(speaker, config.max_training_seconds)
    callbacks: list[Any] = [reporter]
    if order.stopping is not None:
        callbacks.append(
            transformers.EarlyStoppingCallback(
                config.early_stopping_patience, config.early_stopping_threshold
            )
        )
    adapter = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    loop = trl.SFTTrainer(
        model=load_base(order.base, config, speaker),
        args=arguments(order, batch, accumulation),
        train_dataset=_rows(order.training),
        eval_dataset=_rows(order.stopping) if order.stopping is not None else None,
        processing_class=tokenizer,
        peft_config=adapter if config.use_lora else None,
        callbacks=callbacks,
    )
    return loop, reporter


def last_whole_checkpoint(work: Path) -> str | None:
    """The newest checkpoint that was written to its end; those cut off are removed."""
    whole: list[tuple[int, Path]] = []
    for folder in work.glob("checkpoint-*"):
        if (folder / WHOLE).exists():
            whole.append((int(folder.name.rpartition("-")[2]), folder))
        else:
            shutil.rmtree(folder)
    return str(max(whole)[1]) if whole else None


def fit(order: TuneOrder, speaker: Speaker) -> tuple[Any, Any]:
    """Train to the end; out of memory halves the batch and doubles the accumulation."""
    batch, accumulation = order.config.batch_size, order.config.gradient_accumulation
    while True:
        try:
            loop, reporter = build(order, speaker, batch, accumulation)
            loop.train(resume_from_checkpoint=last_whole_checkpoint(Path(order.work)))
            return loop, reporter
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch, accumulation = batch // 2, accumulation * 2
            speaker.say(
                Notice(message=f"out of memory: batch {batch}, accumulation {accumulation}")
            )
            shutil.rmtree(order.work)
        loop = None
        gc.collect()
        torch.cuda.empty_cache()


def save(order: TuneOrder, loop: Any, reporter: Reporter, seconds: float) -> dict[str, float]:
    """Write adapter, tokenizer and training_metadata.json; the folder appears whole or not at all."""
    target = Path(order.adapter)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    loop.model.save_pretrained(partial, safe_serialization=True)
    loop.processing_class.save_pretrained(partial)
    state, history = loop.state, loop.state.log_history
    metrics = {
        "steps": float(state.global_step),
        "training_seconds": round(seconds, 3),
        "peak_memory_bytes": float(_memory_bytes()),
        "trainable_parameters": float(
            sum(p.numel() for p in loop.model.parameters() if p.requires_grad)
        ),
        "parameters": float(sum(p.numel() for p in loop.model.parameters())),
    }
    losses = [entry["loss"] for entry in history if "loss" in entry]
    if losses:
        metrics["final_training_loss"] = float(losses[-1])
    if state.best_metric is not None:
        metrics["best_validation_loss"] = float(state.best_metric)
    metadata = {
        "base": order.base,
        "hyperparameters": msgspec.to_builtins(order.config),
        "metrics": metrics,
        "stopped": _why_stopped(state, reporter),
        "best_checkpoint": Path(state.best_model_checkpoint or "").name or None,
        "curves": history,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "versions": {
            module.__name__: str(module.__version__) for module in (torch, transformers, peft, trl)
        },
    }
    (partial / "training_metadata.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(metadata))
    )
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return metrics


def _why_stopped(state: Any, reporter: Reporter) -> str:
    if reporter.timed_out:
        return "time_limit"
    return "completed" if state.global_step >= state.max_steps else "early_stopping"


def main() -> None:
    die_with_parent()
    speaker = Speaker()
    order = read_order(TuneOrder)
    if order.config.threads:
        torch.set_num_threads(order.config.threads)
    Path(order.work).mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    loop, reporter = fit(order, speaker)
    metrics = save(order, loop, reporter, time.monotonic() - started)
    speaker.say(Finished(metrics=metrics, output={"stopped": _why_stopped(loop.state, reporter)}))


if __name__ == "__main__":
    main()
