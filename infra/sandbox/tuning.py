"""OpenAI's `/v1/fine_tuning/jobs`: jobs that advance by time and end in a callable model."""

import secrets
import time
from typing import Any, Literal

import msgspec

from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.files import Files, page
from infra.sandbox.models import Catalogue
from infra.sandbox.openai_wire import plain_headers
from infra.sandbox.requests import read
from infra.sandbox.tuning_job import Job, Pause, examine

SUFFIX_CHARS_MAX = 64
_ENDED = ("succeeded", "failed", "cancelled")


class Hyperparameters(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Hyperparameters of either method."""

    n_epochs: Literal["auto"] | int = "auto"
    batch_size: Literal["auto"] | int = "auto"
    learning_rate_multiplier: Literal["auto"] | float = "auto"
    beta: Literal["auto"] | float | None = None


class MethodBody(msgspec.Struct, forbid_unknown_fields=True):
    """The settings of a method."""

    hyperparameters: Hyperparameters | None = None


class Method(msgspec.Struct, forbid_unknown_fields=True):
    """How to tune."""

    type: Literal["supervised", "dpo"]
    supervised: MethodBody | None = None
    dpo: MethodBody | None = None


class JobRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The documented parameters."""

    model: str
    training_file: str
    hyperparameters: Hyperparameters | None = None
    integrations: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None = None
    method: Method | None = None
    seed: int | None = None
    suffix: str | None = None
    validation_file: str | None = None


_JOBS = msgspec.json.Decoder(JobRequest)


class Tuning:
    """The jobs of all base paths; each base sees its own."""

    def __init__(self, files: Files, catalogue: Catalogue, duration_s: float) -> None:
        self._files = files
        self._catalogue = catalogue
        self._duration_s = duration_s
        self._jobs: dict[str, Job] = {}

    def settle(self) -> None:
        """Offer the models of jobs that have succeeded since the last look."""
        for job in self._jobs.values():
            if not job.result_files and job.status() == "succeeded":
                name = f"{job.id}-results.csv"
                file = self._files.add(job.base, name, "fine-tune-results", job.results_csv())
                job.result_files = [file.id]
                tuned = msgspec.structs.replace(
                    job.model,
                    name=job.fine_tuned_model,
                    snapshot="",
                    created_s=job.wall_s(1.0),
                    tunable=False,
                )
                self._catalogue.add(tuned)

    async def serve(self, exchange: Exchange, parts: list[str], body: bytes) -> None:
        """Serve a call below `/v1/fine_tuning/jobs`.

        Raises:
            ApiError: the vendor would refuse it.
            BadBody: the body is not what the vendor documents.
        """
        self.settle()
        base, query = exchange.row.base, exchange.query
        answer: dict[str, Any]
        match exchange.row.method, parts:
            case "POST", []:
                answer = self._create(base, read(_JOBS, body)).shown()
            case "GET", []:
                jobs = [job.shown() for job in self._jobs.values() if job.base == base]
                answer = _envelope(jobs[::-1], query, ends=False)
            case "GET", [job_id]:
                answer = self._get(base, job_id).shown()
            case "GET", [job_id, "events"]:
                answer = _envelope(self._get(base, job_id).events(), query, ends=False)
            case "GET", [job_id, "checkpoints"]:
                answer = _envelope(self._get(base, job_id).checkpoints(), query, ends=True)
            case "POST", [job_id, "cancel" | "pause" | "resume" as verb]:
                answer = self._steer(self._get(base, job_id), verb).shown()
            case _:
                raise ApiError(
                    404, "not_found", f"Invalid URL ({exchange.row.method} {exchange.row.path})"
                )
        await exchange.answer_json(answer, plain_headers(exchange))

    def _get(self, base: str, job_id: str) -> Job:
        job = self._jobs.get(job_id)
        if job is None or job.base != base:
            message = f"Could not find fine tune: {job_id}"
            raise ApiError(
                404, "not_found", message, param="fine_tune_id", code="fine_tune_not_found"
            )
        return job

    def _create(self, base: str, request: JobRequest) -> Job:
        model = self._catalogue.get(request.model, "openai")
        if model is None or not model.tunable:
            raise invalid(
                f"Model {request.model} is not available for fine-tuning or does not exist.",
                param="model",
                code="model_not_available",
            )
        if request.suffix is not None and len(request.suffix) > SUFFIX_CHARS_MAX:
            raise invalid(
                f"Invalid 'suffix': at most {SUFFIX_CHARS_MAX} characters.", param="suffix"
            )
        file = self._file(base, request.training_file, "training_file")
        if request.validation_file is not None:
            self._file(base, request.validation_file, "validation_file")
        method = request.method or Method("supervised")
        settings = method.dpo if method.type == "dpo" else method.supervised
        chosen = (settings and settings.hyperparameters) or request.hyperparameters
        examples, tokens, problem = examine(file, method.type)
        job = Job(
            id=f"ftjob-{secrets.token_hex(12)}",
            base=base,
            model=model,
            method=method.type,
            hyperparameters=msgspec.to_builtins(chosen or Hyperparameters()),
            training_file=request.training_file,
            validation_file=request.validation_file,
            suffix=request.suffix,
            seed=secrets.randbelow(2**31) if request.seed is None else request.seed,
            metadata=request.metadata,
            created_s=time.time(),
            duration_s=self._duration_s,
            examples=examples,
            tokens=tokens,
            problem=problem,
        )
        self._jobs[job.id] = job
        return job

    def _file(self, base: str, file_id: str, param: str) -> bytes:
        try:
            return self._files.get(base, file_id).content
        except ApiError as error:
            raise invalid(
                f"File '{file_id}' does not exist.", param=param, code="invalid_file"
            ) from error

    def _steer(self, job: Job, verb: str) -> Job:
        status = job.status()
        now_s = time.time()
        if status in _ENDED:
            raise invalid(f"Job has already completed: {job.id}", code=f"invalid_{verb}_request")
        if verb == "cancel":
            job.cancelled_s = now_s
        elif verb == "pause":
            if status != "running":
                raise invalid(f"Job {job.id} is not running.", code="invalid_pause_request")
            job.pauses.append(Pause(job.progress_s(), now_s))
        else:
            if status != "paused":
                raise invalid(f"Job {job.id} is not paused.", code="invalid_resume_request")
            job.pauses[-1].ended_s = now_s
        return job


def _envelope(
    entries: list[dict[str, Any]], query: dict[str, str], *, ends: bool
) -> dict[str, Any]:
    """The list as documented for jobs: only checkpoints carry the ids of their ends."""
    answer = page(entries, query, default=20)
    if not ends:
        del answer["first_id"], answer["last_id"]
    return answer
