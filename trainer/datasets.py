"""Datasets from feedback: transform, validate, deduplicate, split. Pure but for reading and writing files.

The truth is canonical JSONL, one `TrainingExample` a line, sorted by id; a vendor's files derive from
it. Order matters: duplicates go first, then the split, and only then may anything be added to the
training part, so that no copy can leak into what a model is judged by.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path

import msgspec

from schemas.errors import DatasetError, DatasetFormatError, DatasetValidationError
from trainer.duplicates import fingerprint, near_duplicate_groups

EXAMPLES_MIN = 10
TOKENS_MAX = 2048
TASK_TYPE = "task_type"
"""Where an example's metadata keep the task that it is of."""
TRAINING, STOPPING, VALIDATION = "training", "stopping", "validation"
STOPPING_SHARE = 0.125
"""Share of what is not validation that early stopping watches; validation is for judging alone."""


class TrainingExample(msgspec.Struct, frozen=True, kw_only=True):
    """What a model should have answered (DATA-01). `difficulty` lies in 0–1."""

    id: str
    system_prompt: str = ""
    user_prompt: str
    model_response: str
    preferred_response: str
    tags: list[str] = []
    difficulty: float = 0.5
    metadata: dict[str, str] = {}


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """Feedback with its texts opened; `satisfaction_score` lies in −1..1."""

    feedback_id: str
    occurred_at_us: int
    feedback_type: str
    satisfaction_score: float
    original_prompt: str
    model_response: str
    corrected_response: str | None = None
    system_prompt: str = ""
    user_context: list[str] = []
    user_segment: str | None = None
    request_id: str | None = None
    model_id: str | None = None
    task_type: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a row cannot be used; `row` counts from 1, 0 is the dataset itself."""

    row: int
    field: str
    code: str
    message: str
    suggestion: str


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Measured of the examples that validated. Token figures are null without a tokenizer."""

    examples: int
    duplicates_exact: int
    duplicates_near: int
    bytes: int
    vocabulary: int
    tokens_min: int | None = None
    tokens_mean: float | None = None
    tokens_p50: int | None = None
    tokens_p95: int | None = None
    tokens_max: int | None = None


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of DATA-04: all problems, not the first."""

    is_valid: bool
    errors: list[Problem]
    statistics: Statistics


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a dataset as stored."""

    name: str
    storage_path: str
    example_count: int
    size_bytes: int
    sha256: str


def example_of(feedback: Feedback) -> TrainingExample | None:
    """The example that a piece of feedback teaches, or None when it teaches nothing (DATA-08).

    A correction is what should have been said. Without one, an answer is taught back only when
    somebody liked it.
    """
    corrected = (feedback.corrected_response or "").strip()
    liked = feedback.feedback_type == "thumbs_up" or feedback.satisfaction_score > 0
    dropped = feedback.feedback_type in {"manual_correction", "thumbs_down"}
    if not corrected and (dropped or not liked):
        return None
    metadata = {
        "feedback_id": feedback.feedback_id,
        "feedback_type": feedback.feedback_type,
        "user_segment": feedback.user_segment or "",
        "request_id": feedback.request_id or "",
        "model_id": feedback.model_id or "",
        TASK_TYPE: feedback.task_type or "",
    }
    return TrainingExample(
        id=feedback.feedback_id,
        system_prompt=feedback.system_prompt,
        user_prompt=feedback.original_prompt,
        model_response=feedback.model_response,
        preferred_response=feedback.corrected_response if corrected else feedback.model_response,  # type: ignore[arg-type]
        tags=feedback.user_context,
        metadata={key: value for key, value in metadata.items() if value},
    )


def messages_of(example: TrainingExample) -> list[dict[str, str]]:
    """The conversation up to the answer, as chat messages."""
    user = {"role": "user", "content": example.user_prompt}
    if not example.system_prompt:
        return [user]
    return [{"role": "system", "content": example.system_prompt}, user]


def deduplicate(examples: Sequence[TrainingExample]) -> list[TrainingExample]:
    """Keep one example per prompt, the last: whoever corrected last has seen the most.

    Two examples are the same when system and user prompt are, blanks at the ends aside.
    """
    kept = {(e.system_prompt.strip(), e.user_prompt.strip()): e for e in examples}
    return list(kept.values())


def validate(
    examples: Sequence[TrainingExample],
    *,
    token_counts: Sequence[int] | None = None,
    examples_min: int = EXAMPLES_MIN,
    tokens_max: int = TOKENS_MAX,
) -> Validation:
    """Check every example and return all problems; `token_counts` come from the target tokenizer."""
    problems = [p for row, example in enumerate(examples, 1) for p in _problems(row, example)]
    if len(examples) < examples_min:
        problems.append(
            Problem(
                row=0,
                field="",
                code="too_few_examples",
                message=f"{len(examples)} examples, at least {examples_min} are needed",
                suggestion="Collect more feedback, or widen the time window.",
            )
        )
    for row, count in enumerate(token_counts or (), 1):
        if count > tokens_max:
            problems.append(
                Problem(
                    row=row,
                    field="preferred_response",
                    code="too_long",
                    message=f"{count} tokens, at most {tokens_max} are allowed",
                    suggestion="Shorten the prompt or the answer.",
                )
            )
    return Validation(
        is_valid=not problems,
        errors=problems,
        statistics=statistics(examples, token_counts),
    )


def _problems(row: int, example: TrainingExample) -> Iterable[Problem]:
    for field in ("user_prompt", "preferred_response"):
        text: str = getattr(example, field)
        if not text.strip():
            yield Problem(
                row=row,
                field=field,
                code="empty",
                message=f"{field} is empty",
                suggestion="Fill it in, or remove the row.",
            )
        if "\ufffd" in text:
            yield Problem(
                row=row,
                field=field,
                code="encoding",
                message=f"{field} holds U+FFFD: its bytes were decoded with the wrong encoding",
                suggestion="Decode the source as UTF-8 again.",
            )
        if any(ord(c) < 32 and c not in "\t\n\r" for c in text):
            yield Problem(
                row=row,
                field=field,
                code="control_characters",
                message=f"{field} holds control characters",
                suggestion="Remove them.",
            )


def statistics(
    examples: Sequence[TrainingExample], token_counts: Sequence[int] | None = None
) -> Statistics:
    """Measure a dataset."""
    prompts = [e.user_prompt for e in examples]
    exact = len(prompts) - len({fingerprint(p) for p in prompts})
    groups = near_duplicate_groups(prompts)
    words = {w for e in examples for w in f"{e.user_prompt} {e.preferred_response}".split()}
    counts = sorted(token_counts or ())
    return Statistics(
        examples=len(examples),
        duplicates_exact=exact,
        duplicates_near=len(groups) - len(set(groups)) - exact,
        bytes=len(to_jsonl(examples)),
        vocabulary=len(words),
        tokens_min=counts[0] if counts else None,
        tokens_mean=sum(counts) / len(counts) if counts else None,
        tokens_p50=_nearest_rank(counts, 0.5) if counts else None,
        tokens_p95=_nearest_rank(counts, 0.95) if counts else None,
        tokens_max=counts[-1] if counts else None,
    )


def _nearest_rank(ordered: Sequence[int], share: float) -> int:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def split(
    examples: Sequence[TrainingExample],
    *,
    validation_split: float,
    seed: int,
    stratum: Callable[[TrainingExample], str] = lambda e: e.metadata.get("feedback_type", ""),
) -> dict[str, list[TrainingExample]]:
    """Split into training, stopping and validation, the same for the same examples and seed (DATA-09).

    Validation is floor(n × share) at most: near-duplicates stay together, so a group that does not
    fit goes to training. Each stratum gives its share. Raises DatasetError when a part overlaps
    another, which the grouping excludes.
    """
    if not 0 < validation_split < 1:
        raise DatasetError(f"validation_split {validation_split} is not between 0 and 1")
    groups: dict[int, list[TrainingExample]] = defaultdict(list)
    ordered = sorted(examples, key=lambda e: e.id)
    for example, group in zip(
        ordered, near_duplicate_groups([e.user_prompt for e in ordered]), strict=True
    ):
        groups[group].append(example)
    held, rest = _take(list(groups.values()), validation_split, seed, stratum)
    watched, trained = _take(rest, STOPPING_SHARE, seed + 1, stratum)
    parts = {
        name: sorted((e for group in chosen for e in group), key=lambda e: e.id)
        for name, chosen in ((TRAINING, trained), (STOPPING, watched), (VALIDATION, held))
    }
    prove_disjoint(parts)
    return parts


Groups = list[list[TrainingExample]]


def _take(
    groups: Groups, share: float, seed: int, stratum: Callable[[TrainingExample], str]
) -> tuple[Groups, Groups]:
    """Move a share of every stratum out of `groups`; return (taken, left)."""
    strata: dict[str, Groups] = defaultdict(list)
    for group in sorted(groups, key=lambda g: _draw(seed, g[0].id)):
        strata[stratum(group[0])].append(group)
    total = sum(len(group) for group in groups)
    room = math.floor(total * share)
    quotas = _quotas({k: sum(map(len, g)) for k, g in strata.items()}, share, room)
    taken: Groups = []
    left: Groups = []
    for name, members in strata.items():
        space = quotas[name]
        for group in members:
            if len(group) <= space:
                space -= len(group)
                taken.append(group)
            else:
                left.append(group)
    return taken, left


def _quotas(sizes: dict[str, int], share: float, room: int) -> dict[str, int]:
    """Whole numbers that sum to `room`, next to each stratum's share (largest remainders)."""
    quotas = {name: math.floor(size * share) for name, size in sizes.items()}
    remainders = sorted(sizes, key=lambda name: (quotas[name] - sizes[name] * share, name))
    for name in remainders[: room - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


def _draw(seed: int, identifier: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{identifier}".encode(), digest_size=8).digest()


def prove_disjoint(parts: dict[str, list[TrainingExample]]) -> None:
    """Raise DatasetValidationError when two parts share an example or prompts that are nearly the same."""
    labelled = [(name, e) for name, members in parts.items() for e in members]
    groups = near_duplicate_groups([e.user_prompt for _, e in labelled])
    seen: dict[int, set[str]] = defaultdict(set)
    for (name, _), group in zip(labelled, groups, strict=True):
        seen[group].add(name)
    leaks = [sorted(names) for names in seen.values() if len(names) > 1]
    for a, b in combinations(parts, 2):
        if {e.id for e in parts[a]} & {e.id for e in parts[b]}:
            leaks.append([a, b])
    if leaks:
        raise DatasetValidationError(
            f"{len(leaks)} groups of examples lie in several splits",
            details=[" and ".join(names) for names in leaks],
        )


def to_jsonl(examples: Iterable[TrainingExample]) -> bytes:
    """The canonical bytes of a dataset: one example a line, sorted by id."""
    return b"".join(
        msgspec.json.encode(e, order="deterministic") + b"\n"
        for e in sorted(examples, key=lambda e: e.id)
    )


def write_split(folder: Path, name: str, examples: Sequence[TrainingExample]) -> Split:
    """Store a part as `{name}.jsonl` in `folder`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    data, file = to_jsonl(examples), folder / f"{name}.jsonl"
    partial = file.with_suffix(".partial")
    partial.write_bytes(data)
    partial.rename(file)
    return Split(
        name=name,
        storage_path=str(file),
        example_count=len(examples),
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def read_examples(file: Path, sha256: str | None = None) -> list[TrainingExample]:
    """Read canonical JSONL. Raises DatasetFormatError naming every bad line, or a wrong checksum."""
    data = file.read_bytes()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise DatasetFormatError(f"{file.name} does not have the checksum recorded for it")
    decoder = msgspec.json.Decoder(TrainingExample)
    examples, errors = [], []
    for row, line in enumerate(data.splitlines(), 1):
        try:
            examples.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            errors.append(f"row {row}: {error}")
    if errors:
        raise DatasetFormatError(
            f"{len(errors)} rows of {file.name} cannot be read", details=errors
        )
    return examples
