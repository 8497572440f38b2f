"""One fine-tuning job: everything it shows is a function of the time it has run."""

import hashlib
import json
import math
import time
from typing import Any

import msgspec

from infra.sandbox.models import Model
from infra.sandbox.tokens import count

# Shares of the job's time after which it has validated its files, left the queue, and is done.
VALIDATED, STARTED, DONE = 0.1, 0.2, 1.0
EXAMPLES_MIN = 10
METRIC_EVENTS_MAX = 50
CHECKPOINTS_MAX = 3


class Example(msgspec.Struct):
    """A line of a training file: chat for `supervised`, a preference for `dpo`."""

    messages: list[dict[str, Any]] | None = None
    input: dict[str, Any] | None = None
    preferred_output: list[dict[str, Any]] | None = None
    non_preferred_output: list[dict[str, Any]] | None = None

    def fits(self, method: str) -> bool:
        """Whether the example is one for this method."""
        if method == "dpo":
            return bool(self.input and self.preferred_output and self.non_preferred_output)
        roles = [message.get("role") for message in self.messages or ()]
        return "assistant" in roles


class Pause(msgspec.Struct):
    """A pause: the progress at which it began, and its wall-clock span in seconds."""

    progress_s: float
    began_s: float
    ended_s: float | None = None


class Job(msgspec.Struct):
    """A job. `problem` is what its files will be found guilty of."""

    id: str
    base: str
    model: Model
    method: str
    hyperparameters: dict[str, Any]
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int
    metadata: dict[str, str] | None
    created_s: float
    duration_s: float
    examples: int
    tokens: int
    problem: str | None
    pauses: list[Pause] = []
    cancelled_s: float | None = None
    result_files: list[str] = []

    @property
    def epochs(self) -> int:
        """Passes over the data."""
        given = self.hyperparameters.get("n_epochs", "auto")
        return 3 if given == "auto" else int(given)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole job."""
        given = self.hyperparameters.get("batch_size", "auto")
        batch = 1 + self.examples // 500 if given == "auto" else int(given)
        return max(1, math.ceil(self.examples / batch)) * self.epochs

    @property
    def fine_tuned_model(self) -> str:
        """The name that the result has."""
        return f"ft:{self.model.reported}:org-sandbox:{self.suffix or ''}:{self.id[-8:]}"

    def progress_s(self) -> float:
        """Seconds that the job has run, pauses left out."""
        now_s = time.time() if self.cancelled_s is None else self.cancelled_s
        paused_s = sum((pause.ended_s or now_s) - pause.began_s for pause in self.pauses)
        return now_s - self.created_s - paused_s

    def share(self) -> float:
        """Progress as a share of the whole; a job with bad files stops after their validation."""
        share = min(DONE, self.progress_s() / self.duration_s) if self.duration_s > 0 else DONE
        return share if self.problem is None else min(share, VALIDATED)

    def status(self) -> str:
        """The vendor's status; `paused` is documented though older clients do not list it."""
        if self.cancelled_s is not None:
            return "cancelled"
        if self.pauses and self.pauses[-1].ended_s is None:
            return "paused"
        share = self.share()
        if share < VALIDATED:
            return "validating_files"
        if self.problem is not None:
            return "failed"
        if share < STARTED:
            return "queued"
        return "running" if share < DONE else "succeeded"

    def wall_s(self, share: float) -> int:
        """The time at which a share of the job was done."""
        progress_s = share * self.duration_s
        before = [pause for pause in self.pauses if pause.progress_s <= progress_s]
        paused_s = sum((pause.ended_s or time.time()) - pause.began_s for pause in before)
        return int(self.created_s + progress_s + paused_s)

    def shown(self) -> dict[str, Any]:
        """The vendor's job object."""
        status = self.status()
        finished = None
        if status in ("succeeded", "failed"):
            finished = self.wall_s(self.share())
        elif self.cancelled_s is not None:
            finished = int(self.cancelled_s)
        error = None
        if status == "failed":
            error = {
                "code": "invalid_training_file",
                "message": self.problem,
                "param": "training_file",
            }
        done = status == "succeeded"
        return {
            "object": "fine_tuning.job",
            "id": self.id,
            "model": self.model.reported,
            "created_at": int(self.created_s),
            "finished_at": finished,
            "fine_tuned_model": self.fine_tuned_model if done else None,
            "organization_id": "org-sandbox",
            "result_files": self.result_files,
            "status": status,
            "validation_file": self.validation_file,
            "training_file": self.training_file,
            "hyperparameters": {
                "n_epochs": self.epochs,
                "batch_size": self.hyperparameters.get("batch_size", "auto"),
                "learning_rate_multiplier": self.hyperparameters.get(
                    "learning_rate_multiplier", "auto"
                ),
            },
            "trained_tokens": self.tokens * self.epochs if done else None,
            "error": error,
            "seed": self.seed,
            "estimated_finish": self.wall_s(DONE) if status == "running" else None,
            "integrations": [],
            "metadata": self.metadata,
            "method": {
                "type": self.method,
                self.method: {"hyperparameters": self.hyperparameters},
            },
        }

    def loss(self, step: int) -> float:
        """The training loss shown at a step: falls smoothly, with noise drawn from the seed."""
        digest = hashlib.blake2b(f"{self.seed}|{step}".encode(), digest_size=2).digest()
        noise = int.from_bytes(digest, "little") / 65_536 - 0.5
        return round(0.4 + 2.0 * math.exp(-4.0 * step / self.steps) + 0.05 * noise, 4)

    def events(self) -> list[dict[str, Any]]:
        """What has happened so far, newest first."""
        share = self.share()
        made = [event for at, event in self._timeline() if at <= share]
        if self.cancelled_s is not None:
            made.append(self._event(DONE, "Fine-tuning job cancelled", at_s=int(self.cancelled_s)))
        for number, event in enumerate(made):
            event["id"] = f"ftevent-{self._mark('event', number)}"
        return made[::-1]

    def _timeline(self) -> list[tuple[float, dict[str, Any]]]:
        said: list[tuple[float, str]] = [
            (0.0, f"Created fine-tuning job: {self.id}"),
            (0.0, f"Validating training file: {self.training_file}"),
        ]
        if self.problem is not None:
            failed = self._event(VALIDATED, f"The job failed: {self.problem}", level="error")
            return [(at, self._event(at, text)) for at, text in said] + [(VALIDATED, failed)]
        said += [
            (VALIDATED, "Files validated, moving job to queued state"),
            (STARTED, "Fine-tuning job started"),
        ]
        timeline = [(at, self._event(at, text)) for at, text in said]
        every = max(1, self.steps // METRIC_EVENTS_MAX)
        for step in range(every, self.steps + 1, every):
            at = self._share_of_step(step)
            text = f"Step {step}/{self.steps}: training loss={self.loss(step)}"
            timeline.append((at, self._event(at, text, data=self._metrics(step))))
        for step in self._checkpoint_steps():
            at = self._share_of_step(step)
            timeline.append((at, self._event(at, f"Checkpoint created at step {step}")))
        timeline.sort(key=lambda entry: entry[0])
        timeline.append((DONE, self._event(DONE, "New fine-tuned model created")))
        timeline.append((DONE, self._event(DONE, "The job has successfully completed")))
        return timeline

    def checkpoints(self) -> list[dict[str, Any]]:
        """The checkpoints made so far, newest first."""
        share = self.share() if self.problem is None else 0.0
        made = [
            {
                "object": "fine_tuning.job.checkpoint",
                "id": f"ftckpt_{self._mark('checkpoint', step)}",
                "created_at": self.wall_s(self._share_of_step(step)),
                "fine_tuned_model_checkpoint": f"{self.fine_tuned_model}:ckpt-step-{step}",
                "fine_tuning_job_id": self.id,
                "metrics": {
                    "step": step,
                    "train_loss": self.loss(step),
                    "train_mean_token_accuracy": round(1 - self.loss(step) / 4, 4),
                },
                "step_number": step,
            }
            for step in self._checkpoint_steps()
            if self._share_of_step(step) <= share
        ]
        return made[::-1]

    def results_csv(self) -> bytes:
        """The result file: a line per step."""
        lines = [
            f"{step},{self.loss(step)},{1 - self.loss(step) / 4:.4f}"
            for step in range(1, self.steps + 1)
        ]
        return "\n".join(["step,train_loss,train_accuracy", *lines, ""]).encode()

    def _checkpoint_steps(self) -> list[int]:
        per_epoch = self.steps // self.epochs
        return [per_epoch * epoch for epoch in range(1, self.epochs + 1)][-CHECKPOINTS_MAX:]

    def _share_of_step(self, step: int) -> float:
        return STARTED + (DONE - STARTED) * step / (self.steps + 1)

    def _metrics(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "train_loss": self.loss(step),
            "total_steps": self.steps,
            "train_mean_token_accuracy": round(1 - self.loss(step) / 4, 4),
        }

    def _event(
        self,
        share: float,
        message: str,
        *,
        level: str = "info",
        data: dict[str, Any] | None = None,
        at_s: int | None = None,
    ) -> dict[str, Any]:
        return {
            "object": "fine_tuning.job.event",
            "id": "",
            "created_at": self.wall_s(share) if at_s is None else at_s,
            "level": level,
            "message": message,
            "data": data,
            "type": "message" if data is None else "metrics",
        }

    def _mark(self, kind: str, number: int) -> str:
        return hashlib.blake2b(f"{self.id}|{kind}|{number}".encode(), digest_size=12).hexdigest()


def examine(content: bytes, method: str) -> tuple[int, int, str | None]:
    """Examples and tokens of a training file, and what is wrong with it."""
    decoder = msgspec.json.Decoder(Example)
    examples = tokens = 0
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            example = decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return examples, tokens, f"Invalid file format. Line {number} is not valid JSON."
        if not example.fits(method):
            return examples, tokens, f"Invalid file format. Example {number} does not fit {method}."
        examples += 1
        tokens += count(json.dumps(msgspec.to_builtins(example), ensure_ascii=False))
    if examples < EXAMPLES_MIN:
        problem = f"Training file has {examples} example(s), but must have at least {EXAMPLES_MIN} examples"
        return examples, tokens, problem
    return examples, tokens, None
