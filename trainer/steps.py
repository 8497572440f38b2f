"""What each step of a training run does. Every one may be cut off anywhere and run again."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from schemas.clock import now_us
from schemas.errors import BrokerUnavailable, DatasetValidationError
from schemas.events.changes import DeploymentChanged, ModelVersionChanged, PriceChanged
from schemas.events.training import TrainingProgress, TriggerFired
from schemas.identity import uuid7
from schemas.log import Log
from schemas.privacy import MasterKey, Opener
from schemas.table_view import TableView
from trainer import evaluation, registry
from trainer.backends.base import backend
from trainer.child import run_child
from trainer.collect import collect, read_data_keys
from trainer.config import (
    CountOrder,
    EvaluateOrder,
    Finished,
    Line,
    Notice,
    Progress,
    TuneOrder,
    TuningConfig,
    about_base,
    tuning_config,
)
from trainer.datasets import (
    STOPPING,
    TASK_TYPE,
    TRAINING,
    VALIDATION,
    deduplicate,
    example_of,
    read_examples,
    split,
    validate,
    write_split,
)
from trainer.journal import Journal, TrainingRun
from trainer.settings import TrainerSettings

_log = logging.getLogger(__name__)

ACTOR = "trainer"
DAY_US = 86_400_000_000
POLL_S = 2.0
ALL = "all"
CANDIDATES = "candidates"


@dataclass
class Workshop:
    """What the steps of every run share: settings, log, and the views that they look into."""

    settings: TrainerSettings
    log: Log
    journal: Journal = field(default_factory=Journal)
    versions: TableView[ModelVersionChanged] = field(
        default_factory=lambda: TableView(ModelVersionChanged)
    )
    deployments: TableView[DeploymentChanged] = field(
        default_factory=lambda: TableView(DeploymentChanged)
    )

    @property
    def views(self) -> list[TableView[Any]]:
        """Everything to follow."""
        return [*self.journal.views, self.versions, self.deployments]

    def folder(self, run: TrainingRun) -> Path:
        """Where a run keeps its files, for the trainer's eyes only."""
        folder = self.settings.data_dir / "runs" / run.run_id
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def bases(self) -> list[Path]:
        """Every base model there is."""
        return sorted(p.parent for p in self.settings.bases_dir.glob("*/config.json"))

    async def base(self) -> Path:
        """The base to tune; waits for one, and for the environment that can."""
        said = False
        while True:
            wanted = self.settings.base
            found = [p for p in self.bases() if wanted in {None, p.name}]
            if len(found) == 1 and self.settings.trainer_python.exists():
                return found[0]
            if not said:
                said = True
                _log.warning(
                    "a run waits for %s",
                    "the trainer's environment"
                    if len(found) == 1
                    else "a base model: make one with `weir base-model`"
                    if not found
                    else "a choice: several base models, and no setting names one",
                )
            await asyncio.sleep(POLL_S)


@dataclass(frozen=True)
class Outcome:
    """What a step achieved. `refused` ends the run without a fault: data or gate said no."""

    output: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    refused: str | None = None


def _trigger(run: TrainingRun) -> TriggerFired:
    assert run.trigger is not None
    return run.trigger


# --- the dataset -----------------------------------------------------------------------------


async def collect_feedback(shop: Workshop, run: TrainingRun) -> Outcome:
    """Feedback of the window becomes examples, one per prompt."""
    settings, trigger = shop.settings, _trigger(run)
    keys = await read_data_keys(shop.log)
    found = await collect(
        shop.log,
        Opener(MasterKey(settings.master_key), keys.get),
        since_us=trigger.until_us - settings.lookback_days * DAY_US,
        until_us=trigger.until_us,
        limit=settings.examples_max,
    )
    taught = [e for f in found.feedback if (e := example_of(f)) is not None]
    examples = deduplicate(taught)
    stored = write_split(shop.folder(run), CANDIDATES, examples)
    return Outcome(
        {"dataset_id": f"training_{run.run_id}", "sha256": stored.sha256},
        {
            "feedback": len(found.feedback),
            "examples": len(examples),
            "duplicates_removed": len(taught) - len(examples),
            "erased": found.erased,
            "unreadable": found.unreadable,
        },
    )


async def validate_examples(shop: Workshop, run: TrainingRun) -> Outcome:
    """Bad examples are dropped and counted; too few good ones end the run."""
    folder, base = shop.folder(run), await shop.base()
    candidates = read_examples(folder / f"{CANDIDATES}.jsonl", run.output("collect", "sha256"))
    counts_file = folder / "token_counts.json"
    order = CountOrder(
        base=str(base), examples=str(folder / f"{CANDIDATES}.jsonl"), counts=str(counts_file)
    )
    await run_child(shop.settings.trainer_python, "trainer.tokens", order, folder, _hear_nothing)
    counts = msgspec.json.decode(counts_file.read_bytes(), type=list[int])
    first = validate(candidates, token_counts=counts)
    bad = {problem.row for problem in first.errors}
    kept = [row for row in range(1, len(candidates) + 1) if row not in bad]
    examples = [candidates[row - 1] for row in kept]
    second = validate(examples, token_counts=[counts[row - 1] for row in kept])
    (folder / "validation.json").write_bytes(msgspec.json.encode(first))
    stored = write_split(folder, ALL, examples)
    statistics = second.statistics
    metrics = {
        "examples": statistics.examples,
        "dropped": len(candidates) - len(examples),
        "near_duplicates": statistics.duplicates_near,
        "bytes": statistics.bytes,
        "tokens_max": statistics.tokens_max or 0,
        "tokens_mean": statistics.tokens_mean or 0,
    }
    codes = ",".join(sorted({problem.code for problem in first.errors}))
    refused = None if second.is_valid else "; ".join(p.message for p in second.errors)
    return Outcome({"sha256": stored.sha256, "problems": codes}, metrics, refused)


async def anonymize(_shop: Workshop, _run: TrainingRun) -> Outcome:
    """No recognizer is installed, and the record says so rather than calling this anonymised."""
    return Outcome({"mode": "none"})


async def split_dataset(shop: Workshop, run: TrainingRun) -> Outcome:
    """Training, stopping and validation parts, without overlap."""
    folder, settings = shop.folder(run), shop.settings
    examples = read_examples(folder / f"{ALL}.jsonl", run.output("validate", "sha256"))
    parts = split(examples, validation_split=settings.validation_split, seed=settings.seed)
    stored = [write_split(folder, name, members) for name, members in parts.items()]
    empty = [part.name for part in stored if part.example_count == 0]
    if empty:
        raise DatasetValidationError(f"no examples left for {', '.join(empty)}")
    return Outcome(
        {f"{part.name}_sha256": part.sha256 for part in stored},
        {f"{part.name}_examples": part.example_count for part in stored},
    )


# --- the model -------------------------------------------------------------------------------


def _config(shop: Workshop, base: Path) -> TuningConfig:
    recipe = about_base(base).hyperparameters
    return tuning_config(
        recipe,
        {"seed": shop.settings.seed, "threads": shop.settings.threads},
        shop.settings.hyperparameters,
    )


async def estimate(shop: Workshop, run: TrainingRun) -> Outcome:
    """How much work the fine-tune is; what it costs here nobody has priced, so that is left out."""
    base = await shop.base()
    config = _config(shop, base)
    examples = run.completed["split"].metrics["training_examples"]
    steps = -(-examples // (config.batch_size * config.gradient_accumulation)) * config.num_epochs
    tokens = examples * config.num_epochs * run.completed["validate"].metrics["tokens_mean"]
    return Outcome(
        {"base": base.name, "confidence": "unknown"},
        {"steps_max": steps, "tokens_max": tokens},
    )


async def tune(shop: Workshop, run: TrainingRun) -> Outcome:
    """Fine-tune by the chosen backend; one that was cut off goes on from its last checkpoint."""
    settings, folder = shop.settings, shop.folder(run)
    base = settings.bases_dir / run.output("estimate", "base")
    for part in (TRAINING, STOPPING):
        read_examples(folder / f"{part}.jsonl", run.output("split", f"{part}_sha256"))
    await _move(shop, run, "training", base_model=base.name)
    config = _config(shop, base)
    order = TuneOrder(
        base=str(base),
        training=str(folder / f"{TRAINING}.jsonl"),
        stopping=str(folder / f"{STOPPING}.jsonl"),
        work=str(folder / "work"),
        adapter=str(folder / "adapter"),
        config=config,
    )
    finished = await backend(settings.backend).tune(settings, order, folder, _Ear(shop, run.run_id))
    shutil.rmtree(folder / "work", ignore_errors=True)
    hyperparameters = msgspec.json.encode(config).decode()
    return Outcome(
        {"model_version_id": _version_id(shop, run), "hyperparameters": hyperparameters}
        | finished.output,
        evaluation.finite(finished.metrics),
    )


async def evaluate(shop: Workshop, run: TrainingRun) -> Outcome:
    """Base and tuned model answer what neither was trained on; the gate decides."""
    settings, folder = shop.settings, shop.folder(run)
    held_out = folder / f"{VALIDATION}.jsonl"
    examples = read_examples(held_out, run.output("split", f"{VALIDATION}_sha256"))
    predictions = folder / "predictions.jsonl"
    order = EvaluateOrder(
        base=str(settings.bases_dir / run.output("estimate", "base")),
        adapter=str(folder / "adapter"),
        examples=str(held_out),
        predictions=str(predictions),
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_max,
        threads=settings.threads,
    )
    await run_child(settings.trainer_python, "trainer.generate", order, folder, _hear_nothing)
    both = evaluation.read_predictions(predictions)
    baseline = [p for p in both if p.model_id == evaluation.BASELINE]
    tuned = [p for p in both if p.model_id == evaluation.TUNED]
    gate = evaluation.judge(baseline, tuned, settings.gate_metric, settings.seed)
    tasks = {e.id: e.metadata[TASK_TYPE] for e in examples if TASK_TYPE in e.metadata}
    by_task = evaluation.judged_by_task(baseline, tuned, tasks, settings.gate_metric, settings.seed)
    title = f"Evaluation of {_version_id(shop, run)}"
    (folder / "report.md").write_text(evaluation.report(title, gate, baseline, tuned), "utf-8")
    results = {
        "gate": gate,
        "baseline": evaluation.metrics_of(baseline),
        "tuned": evaluation.metrics_of(tuned),
        "not_computed": evaluation.NOT_COMPUTED,
    }
    (folder / "evaluation_results.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(results))
    )
    metrics = {
        "gain": gate.gain,
        "gain_lower": gate.lower,
        "gain_upper": gate.upper,
        "wins": gate.wins,
        "losses": gate.losses,
        **by_task,
        "examples": gate.examples,
        **{f"baseline_{k}": v for k, v in evaluation.metrics_of(baseline).items()},
        **{f"tuned_{k}": v for k, v in evaluation.metrics_of(tuned).items()},
    }
    return Outcome(
        {"passed": str(gate.passed).lower(), "metric": gate.metric, "reason": gate.reason},
        evaluation.finite(metrics),
    )


async def register(shop: Workshop, run: TrainingRun) -> Outcome:
    """Keep the version's files and their checksums; one that is no better is archived."""
    folder, version = shop.folder(run), _version_id(shop, run)
    base = run.output("estimate", "base")
    adapter = folder / "adapter"
    sources: dict[str, Path | bytes] = {
        file.name: file for file in sorted(adapter.iterdir()) if file.name != "README.md"
    }
    sources["config.json"] = shop.settings.bases_dir / base / "config.json"
    sources["evaluation_results.json"] = folder / "evaluation_results.json"
    sources["report.md"] = folder / "report.md"
    files = registry.store(shop.settings.models_dir / version, sources)
    judged = run.completed["evaluate"]
    passed, reason = judged.output["passed"] == "true", judged.output["reason"]
    await _move(
        shop,
        run,
        "available" if passed else "archived",
        files=files,
        metrics=judged.metrics,
        dataset_id=run.output("collect", "dataset_id"),
        metadata={
            "hyperparameters": run.output("tune", "hyperparameters"),
            "anonymized": run.output("anonymize", "mode"),
            "trigger_id": _trigger(run).trigger_id,
            "gate_metric": judged.output["metric"],
        },
        reason=reason,
    )
    return Outcome({"model_version_id": version}, {}, None if passed else reason)


async def deploy(shop: Workshop, run: TrainingRun) -> Outcome:
    """Serve the version under its own name; it takes nobody else's traffic."""
    version = run.output("register", "model_version_id")
    deployment_id = f"direct-{version}"
    if shop.deployments.get(deployment_id) is None:
        await publish_deployment(shop, deployment_id, version, version, "passed its gate")
    await _move(shop, run, "deployed")
    return Outcome({"deployment_id": deployment_id, "model": version})


async def learn(_shop: Workshop, run: TrainingRun) -> Outcome:
    """Put down what the run has brought, beside what it took."""
    took_us = now_us() - _trigger(run).occurred_at_us
    judged, tuned = run.completed["evaluate"].metrics, run.completed["tune"].metrics
    return Outcome(
        {"model_version_id": run.output("register", "model_version_id")},
        {
            "gain": judged["gain"],
            "gain_lower": judged["gain_lower"],
            "training_seconds": tuned["training_seconds"],
            "trigger_to_deployed_seconds": took_us / 1_000_000,
        },
    )


# --- shared ----------------------------------------------------------------------------------


def _version_id(shop: Workshop, run: TrainingRun) -> str:
    name = shop.settings.model_name or f"{run.output('estimate', 'base')}-tuned"
    return registry.version_id(name, run.run_id, _trigger(run).occurred_at_us)


async def _move(shop: Workshop, run: TrainingRun, status: str, **changes: Any) -> None:
    """Take the run's version to a status, unless it is there already."""
    version = _version_id(shop, run)
    current = shop.versions.get(version)
    if current is not None and current.status == status:
        return
    if current is None:
        changes |= {"model_version_id": version, "name": version.rsplit("_", 2)[0]}
        changes |= {"run_id": run.run_id}
    event = registry.moved(current, status, ACTOR, **changes)
    await shop.log.publish(event, correlation_id=run.run_id)
    await _seen(shop.versions, event)


async def publish_deployment(
    shop: Workshop, deployment_id: str, version: str, model: str, reason: str
) -> None:
    """A direct deployment: callable by name, percentage 0, free of charge from its first call on."""
    await shop.log.publish(_free(shop.settings.local_provider, model))
    event = DeploymentChanged(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        entity_version=1,
        actor=ACTOR,
        deployment_id=deployment_id,
        model_version_id=version,
        model=model,
        provider=shop.settings.local_provider,
        environment=shop.settings.environment,
        state="promoted",
        percentage=0,
        reason=reason,
    )
    await shop.log.publish(event)
    await _seen(shop.deployments, event)


def _free(provider: str, model: str) -> PriceChanged:
    """What runs on one's own machine costs nothing: known to be 0, which is not the same as unknown."""
    return PriceChanged(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        entity_version=1,
        actor=ACTOR,
        provider=provider,
        model=model,
        valid_from_us=0,
        input_price=0,
        cached_input_price=0,
        output_price=0,
        price_version="local",
        source="weir",
    )


async def _seen(view: TableView[Any], event: Any) -> None:
    """Wait until our own view has read what was just published."""
    while True:
        current = view.get(event.key)
        if current is not None and current.entity_version >= event.entity_version:
            return
        await asyncio.sleep(0.02)


class _Ear:
    """Publishes a child's progress lines as events."""

    def __init__(self, shop: Workshop, run_id: str) -> None:
        self._shop, self._run_id = shop, run_id

    async def __call__(self, line: Line) -> None:
        match line:
            case Progress():
                event = TrainingProgress(
                    event_id=uuid7(),
                    occurred_at_us=now_us(),
                    run_id=self._run_id,
                    **msgspec.structs.asdict(line),
                )
                try:
                    await self._shop.log.publish(event, correlation_id=self._run_id)
                except BrokerUnavailable as error:
                    # A reading is for whoever watches; training_metadata.json keeps the curve.
                    _log.warning("a reading of %s is not in the log: %s", self._run_id, error)
            case Notice():
                _log.warning("%s: %s", self._run_id, line.message)
            case Finished():
                pass


async def _hear_nothing(_line: Line) -> None:
    """Progress of a child whose work is too short to follow."""


async def give_up(shop: Workshop, run: TrainingRun, reason: str) -> None:
    """Mark the version of a run that failed, if there is one yet."""
    if "estimate" not in run.completed:
        return
    current = shop.versions.get(_version_id(shop, run))
    if current is not None and "failed" in registry.TRANSITIONS[current.status]:
        await _move(shop, run, "failed", reason=reason)
