"""Judges a tuned model against its base on examples that neither was trained on.

The gate is statistical: the version passes only when the lower end of the 95% interval of its paired
gain lies above zero. What cannot be computed is left out and named, never replaced by a constant.
Pure but for reading predictions.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from scipy.special import betaincinv

from schemas.errors import EvaluationError, MetricCalculationError
from schemas.rewards import TASK_TYPES

BASELINE, TUNED = "baseline", "tuned"
CONFIDENCE = 0.95
RESAMPLES = 10_000
TASK_EXAMPLES_MIN = 10
NOT_COMPUTED = {
    "accuracy": "needs sentence embeddings",
    "relevance_score": "needs sentence embeddings",
    "coherence_score": "needs sentence embeddings",
    "factuality_score": "needs an entailment model",
}


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of one model (EVAL-01). `latency_ms` is that of its whole batch's row."""

    id: str
    model_id: str
    prompt: str
    expected_output: str
    actual_output: str
    is_correct: bool
    input_token_count: int
    output_token_count: int
    latency_ms: float
    scores: dict[str, float]


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict. `lower`..`upper` is the 95% interval of the mean paired gain in `metric`."""

    metric: str
    method: str
    examples: int
    baseline: float
    tuned: float
    gain: float
    lower: float
    upper: float
    wins: int
    ties: int
    losses: int
    passed: bool
    reason: str


def exact_match(expected: str, actual: str) -> float:
    """1 when the texts agree, blanks at the ends aside."""
    return float(expected.strip() == actual.strip())


def token_f1(expected: str, actual: str) -> float:
    """Harmonic mean of precision and recall over words and signs, case kept."""
    a, b = Counter(_tokens(expected)), Counter(_tokens(actual))
    shared = sum((a & b).values())
    if shared == 0:
        return float(not a and not b)
    precision, recall = shared / sum(b.values()), shared / sum(a.values())
    return 2 * precision * recall / (precision + recall)


def rouge_l(expected: str, actual: str) -> float:
    """F1 over the longest common subsequence of words and signs."""
    a, b = _tokens(expected), _tokens(actual)
    row = [0] * (len(b) + 1)
    for left in a:
        diagonal = 0
        for j, right in enumerate(b, 1):
            diagonal, row[j] = (
                row[j],
                diagonal + 1 if left == right else max(row[j], row[j - 1]),
            )
    return 2 * row[-1] / (len(a) + len(b)) if a or b else 1.0


def chrf(expected: str, actual: str, order: int = 6, weight: float = 2.0) -> float:
    """Character n-gram F-score (chrF2), blanks ignored. Source: Popović, WMT 2015."""
    a, b = "".join(expected.split()), "".join(actual.split())
    precisions, recalls = [], []
    for n in range(1, order + 1):
        grams_a = Counter(a[i : i + n] for i in range(len(a) - n + 1))
        grams_b = Counter(b[i : i + n] for i in range(len(b) - n + 1))
        if not grams_a or not grams_b:
            continue
        shared = sum((grams_a & grams_b).values())
        precisions.append(shared / sum(grams_b.values()))
        recalls.append(shared / sum(grams_a.values()))
    if not precisions:
        return float(a == b)
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    if precision + recall == 0:
        return 0.0
    squared = weight * weight
    return (1 + squared) * precision * recall / (squared * precision + recall)


def lexical_similarity(expected: str, actual: str) -> float:
    """Jaccard similarity of the sets of words, case and signs ignored."""
    a, b = (set(re.findall(r"\w+", text.lower())) for text in (expected, actual))
    return len(a & b) / len(a | b) if a | b else 1.0


def _tokens(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


SCORES: dict[str, Callable[[str, str], float]] = {
    score.__name__: score for score in (exact_match, token_f1, rouge_l, chrf, lexical_similarity)
}


def predict(
    *,
    example_id: str,
    model_id: str,
    prompt: str,
    expected: str,
    actual: str,
    input_tokens: int,
    output_tokens: int,
    latency_ms: float,
) -> Prediction:
    """A prediction with all its scores."""
    scores = {name: score(expected, actual) for name, score in SCORES.items()}
    return Prediction(
        id=example_id,
        model_id=model_id,
        prompt=prompt,
        expected_output=expected,
        actual_output=actual,
        is_correct=scores["exact_match"] == 1.0,
        input_token_count=input_tokens,
        output_token_count=output_tokens,
        latency_ms=latency_ms,
        scores=scores,
    )


def read_predictions(file: Path) -> list[Prediction]:
    """Read predictions; a last line that a killed writer left torn is ignored."""
    if not file.exists():
        return []
    lines = file.read_bytes().split(b"\n")
    return [msgspec.json.decode(line, type=Prediction) for line in lines[:-1]]


def metrics_of(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Mean scores of a model. Raises MetricCalculationError when there is nothing to measure."""
    if not predictions:
        raise MetricCalculationError("there are no predictions to measure")
    count = len(predictions)
    means = {name: sum(p.scores[name] for p in predictions) / count for name in SCORES}
    means["average_token_count"] = sum(p.output_token_count for p in predictions) / count
    means["average_latency_ms"] = sum(p.latency_ms for p in predictions) / count
    return means


def judge(
    baseline: Sequence[Prediction], tuned: Sequence[Prediction], metric: str, seed: int = 0
) -> Gate:
    """Compare the two answers to each example. Raises EvaluationError unless they pair up."""
    if metric not in SCORES:
        raise EvaluationError(f"{metric!r} is no gate metric; choose of {', '.join(SCORES)}")
    by_id = {p.id: p for p in baseline}
    if not tuned or len(tuned) != len(baseline) or any(p.id not in by_id for p in tuned):
        raise EvaluationError("the base and the tuned model did not answer the same examples")
    gains = [p.scores[metric] - by_id[p.id].scores[metric] for p in tuned]
    wins, losses = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
    if all(g in {-1.0, 0.0, 1.0} for g in gains):
        method = "exact conditional (sign test)"
        lower, upper = exact_interval(wins, losses, len(gains))
    else:
        method = f"bootstrap, {RESAMPLES} resamples"
        lower, upper = bootstrap_interval(gains, seed)
    gain, passed = sum(gains) / len(gains), lower > 0
    return Gate(
        metric=metric,
        method=method,
        examples=len(gains),
        baseline=sum(p.scores[metric] for p in baseline) / len(baseline),
        tuned=sum(p.scores[metric] for p in tuned) / len(tuned),
        gain=gain,
        lower=lower,
        upper=upper,
        wins=wins,
        ties=len(gains) - wins - losses,
        losses=losses,
        passed=passed,
        reason=(
            f"{metric} gain {gain:+.3f} over {len(gains)} held-out examples, "
            f"95% interval {lower:+.3f} to {upper:+.3f}: "
            + ("better than its base" if passed else "not shown to be better than its base")
        ),
    )


def judged_by_task(
    baseline: Sequence[Prediction],
    tuned: Sequence[Prediction],
    tasks: Mapping[str, str],
    metric: str,
    seed: int = 0,
) -> dict[str, float]:
    """Return the gain by task, each with the lower end of its interval (RT-15).

    `tasks` says of what task an example is, by its id; of few examples nothing is told.
    """
    found: dict[str, float] = {}
    for task in sorted(TASK_TYPES & set(tasks.values())):
        mine = {name for name, of in tasks.items() if of == task}
        before, after = ([p for p in part if p.id in mine] for part in (baseline, tuned))
        if len(after) < TASK_EXAMPLES_MIN:
            continue
        gate = judge(before, after, metric, seed)
        found |= {f"gain_{task}": gate.gain, f"gain_lower_{task}": gate.lower}
    return found


def exact_interval(wins: int, losses: int, examples: int) -> tuple[float, float]:
    """The 95% interval of (wins − losses) / examples, given how many pairs differ at all.

    Clopper-Pearson on the share of wins among the pairs that differ: valid at any size, and above
    zero exactly when McNemar's exact test is significant.
    """
    differing, tail = wins + losses, (1 - CONFIDENCE) / 2
    if differing == 0:
        return 0.0, 0.0
    low = float(betaincinv(wins, losses + 1, tail)) if wins else 0.0
    high = float(betaincinv(wins + 1, losses, 1 - tail)) if losses else 1.0
    scale = differing / examples
    return (2 * low - 1) * scale, (2 * high - 1) * scale


def bootstrap_interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """The 95% percentile interval of the mean, resampled with a seed."""
    array, random = np.asarray(values), np.random.default_rng(seed)
    means = [array[random.integers(0, len(array), len(array))].mean() for _ in range(RESAMPLES)]
    tail = 100 * (1 - CONFIDENCE) / 2
    lower, upper = np.percentile(means, [tail, 100 - tail])
    return float(lower), float(upper)


def report(
    title: str,
    gate: Gate,
    baseline: Sequence[Prediction],
    tuned: Sequence[Prediction],
) -> str:
    """The evaluation as Markdown (EVAL-06): metrics, verdict, three best and three worst."""
    before, after = metrics_of(baseline), metrics_of(tuned)
    lines = [f"# {title}", "", f"**{'Passed' if gate.passed else 'Refused'}**: {gate.reason}."]
    lines += [
        "",
        f"Method: {gate.method}; {gate.wins} wins, {gate.ties} ties, {gate.losses} losses.",
    ]
    lines += ["", "| metric | base | tuned |", "|---|---|---|"]
    lines += [f"| {name} | {before[name]:.4f} | {after[name]:.4f} |" for name in sorted(after)]
    lines += [""] + [f"Not computed: {name} ({why})." for name, why in NOT_COMPUTED.items()]
    ranked = sorted(tuned, key=lambda p: (p.scores["chrf"], p.id))
    for heading, shown in (("Best", ranked[::-1][:3]), ("Worst", ranked[:3])):
        lines += ["", f"## {heading} by chrF"]
        for p in shown:
            lines += [
                "",
                f"- prompt: {_quote(p.prompt)}",
                f"  - expected: {_quote(p.expected_output)}",
            ]
            lines += [
                f"  - actual: {_quote(p.actual_output)}",
                f"  - score: {p.scores['chrf']:.4f}",
            ]
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    flat = " ".join(text.split()).replace("`", "'")
    return f"`{flat[:200]}`" + ("…" if len(flat) > 200 else "")


def finite(metrics: dict[str, float]) -> dict[str, float]:
    """Raise MetricCalculationError when a metric is not a number: nothing is ever averaged over NaN."""
    bad = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    if bad:
        raise MetricCalculationError(f"not a number: {', '.join(bad)}")
    return metrics
