"""The gate lets through what is shown to be better, and nothing else."""

import math
import random
from pathlib import Path

import msgspec
import pytest
from scipy.stats import binomtest

from schemas.errors import EvaluationError, MetricCalculationError
from trainer.evaluation import (
    BASELINE,
    SCORES,
    TUNED,
    Prediction,
    chrf,
    exact_interval,
    finite,
    judge,
    judged_by_task,
    metrics_of,
    predict,
    read_predictions,
    report,
    rouge_l,
    token_f1,
)


def predictions(model: str, answers: list[str], expected: str = "yes") -> list[Prediction]:
    return [
        predict(
            example_id=str(index),
            model_id=model,
            prompt=f"prompt {index}",
            expected=expected,
            actual=answer,
            input_tokens=3,
            output_tokens=len(answer),
            latency_ms=2.0,
        )
        for index, answer in enumerate(answers)
    ]


def verdict(before: str, after: str) -> bool:
    """Judge runs of y and n."""
    answers = {"y": "yes", "n": "no"}
    old = predictions(BASELINE, [answers[c] for c in before])
    new = predictions(TUNED, [answers[c] for c in after])
    return judge(old, new, "exact_match").passed


@pytest.mark.req("FT-12", "EVAL-02")
@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [
        ("nnnnnnnn", "yyyyyyyy", True),
        ("nnnnnnnn", "yyyyyynn", True),
        ("nnnnnnnn", "yyyyynnn", False),
        ("nnnnnnnn", "nnnnnnnn", False),
        ("yyyyyyyy", "yyyyyyyy", False),
        ("yyyyyyyy", "nnnnnnnn", False),
        ("nnnnnnnnyy", "yyyyyyyynn", False),
    ],
)
def test_only_a_significant_gain_passes(before: str, after: str, passed: bool) -> None:
    assert verdict(before, after) is passed


@pytest.mark.req("EVAL-02")
@pytest.mark.parametrize("wins", range(12))
@pytest.mark.parametrize("losses", [0, 1, 3])
def test_the_interval_agrees_with_the_exact_test(wins: int, losses: int) -> None:
    lower, upper = exact_interval(wins, losses, 20)
    assert lower <= (wins - losses) / 20 <= upper
    if wins + losses:
        p = binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue
        assert (lower > 0) == (p < 0.025)


@pytest.mark.req("EVAL-02")
def test_a_worthless_model_passes_rarely() -> None:
    rng = random.Random(7)
    runs = [
        verdict(*("".join(rng.choice("yn") for _ in range(20)) for _ in range(2)))
        for _ in range(300)
    ]
    assert sum(runs) / len(runs) <= 0.05


@pytest.mark.req("EVAL-02")
def test_a_continuous_metric_is_bootstrapped_with_a_seed() -> None:
    old = predictions(BASELINE, ["a b", "a c", "d", "e a"] * 5, expected="a b c")
    new = predictions(TUNED, ["a b c", "a b", "a b", "a b c"] * 5, expected="a b c")
    one, two = (judge(old, new, "chrf", seed=3) for _ in range(2))
    assert one == two
    assert one.passed
    assert one.lower < one.gain < one.upper


@pytest.mark.req("EVAL-02", "GEN-05")
def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(EvaluationError):
        metrics_of([])
    with pytest.raises(EvaluationError, match="same examples"):
        judge(predictions(BASELINE, ["a"]), predictions(TUNED, ["a", "b"]), "exact_match")
    with pytest.raises(EvaluationError, match="no gate metric"):
        judge(predictions(BASELINE, ["a"]), predictions(TUNED, ["a"]), "reward")
    with pytest.raises(MetricCalculationError, match="not a number"):
        finite({"loss": math.nan})


@pytest.mark.req("EVAL-02")
def test_scores_know_same_from_different() -> None:
    for name, score in SCORES.items():
        assert score("The red fox.", "The red fox.") == 1, name
        assert score("abc", "xyz") == 0, name
        assert 0 < score("the red fox ran", "the red dog ran") < 1 or name == "exact_match"
    assert token_f1("A B", "a b") == 0, "letter case is part of an answer"
    assert rouge_l("a b c d", "a c d b") == pytest.approx(0.75)
    # Worked by hand: unigrams 2/3 and 2/3, bigrams 1/2 and 1/2, trigrams 0.
    assert chrf("abc", "abd") == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


@pytest.mark.req("EVAL-06")
def test_the_report_shows_metrics_the_best_and_the_worst() -> None:
    old = predictions(BASELINE, ["no"] * 8)
    new = predictions(TUNED, ["yes"] * 6 + ["no", "n`o"])
    text = report("Evaluation of v1", judge(old, new, "exact_match"), old, new)
    assert "| exact_match | 0.0000 | 0.7500 |" in text
    assert text.count("  - expected:") == 6
    assert "Not computed: factuality_score" in text
    assert "`n'o`" in text


@pytest.mark.req("EVAL-07")
def test_a_torn_last_prediction_is_answered_again(tmp_path: Path) -> None:
    whole = predictions(TUNED, ["a", "b"])
    lines = [msgspec.json.encode(p) for p in whole]
    file = tmp_path / "predictions.jsonl"
    file.write_bytes(lines[0] + b"\n" + lines[1][:20])
    assert read_predictions(file) == whole[:1]


@pytest.mark.req("RT-15", "EVAL-02")
def test_gains_are_told_by_task_where_there_are_enough_examples() -> None:
    old = predictions(BASELINE, ["no"] * 30)
    new = predictions(TUNED, ["yes"] * 15 + ["no"] * 15)
    tasks = {p.id: "code" if index < 15 else "analytical" for index, p in enumerate(new)}
    tasks |= {new[29].id: "creative", new[28].id: "a word of somebody"}
    found = judged_by_task(old, new, tasks, "exact_match")
    assert set(found) == {
        "gain_code",
        "gain_lower_code",
        "gain_analytical",
        "gain_lower_analytical",
    }
    assert (found["gain_code"], found["gain_analytical"]) == (1.0, 0.0)
    assert found["gain_lower_code"] > 0.5
