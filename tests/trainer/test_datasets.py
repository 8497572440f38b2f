"""Feedback becomes examples, examples a dataset whose parts share nothing."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DatasetFormatError, DatasetValidationError
from trainer.datasets import (
    Feedback,
    TrainingExample,
    deduplicate,
    example_of,
    prove_disjoint,
    read_examples,
    split,
    to_jsonl,
    validate,
    write_split,
)
from trainer.duplicates import fingerprint, near_duplicate_groups


def feedback(**changes: object) -> Feedback:
    fields: dict[str, object] = {
        "feedback_id": "f1",
        "occurred_at_us": 1,
        "feedback_type": "manual_correction",
        "satisfaction_score": 0.0,
        "original_prompt": "What is two and two?",
        "model_response": "Five.",
    }
    return Feedback(**{**fields, **changes})  # type: ignore[arg-type]


def example(number: int, prompt: str | None = None, kind: str = "thumbs_up") -> TrainingExample:
    return TrainingExample(
        id=f"e{number:04}",
        user_prompt=prompt or hashlib.sha256(str(number).encode()).hexdigest(),
        model_response="",
        preferred_response=f"answer {number}",
        metadata={"feedback_type": kind},
    )


@pytest.mark.req("DATA-08")
@pytest.mark.parametrize(
    ("given_feedback", "taught"),
    [
        (feedback(corrected_response="Four."), "Four."),
        (feedback(), None),
        (feedback(feedback_type="thumbs_down"), None),
        (feedback(feedback_type="thumbs_down", corrected_response="Four."), "Four."),
        (feedback(feedback_type="thumbs_up"), "Five."),
        (feedback(feedback_type="text_feedback"), None),
        (feedback(feedback_type="text_feedback", satisfaction_score=0.5), "Five."),
        (feedback(feedback_type="prompt_reformulation", satisfaction_score=-0.5), None),
    ],
)
def test_only_what_somebody_wanted_is_taught(given_feedback: Feedback, taught: str | None) -> None:
    made = example_of(given_feedback)
    assert (made.preferred_response if made else None) == taught


@pytest.mark.req("DATA-08", "DATA-01")
def test_an_example_carries_where_it_comes_from_and_its_system_prompt() -> None:
    made = example_of(
        feedback(corrected_response="Four.", system_prompt="Be exact.", user_context=["maths"])
    )
    assert made is not None
    assert made.system_prompt == "Be exact."
    assert made.tags == ["maths"]
    assert made.metadata["feedback_id"] == "f1"
    assert made.metadata["feedback_type"] == "manual_correction"


@pytest.mark.req("DATA-04")
def test_validation_names_every_problem() -> None:
    bad = [
        TrainingExample(id="a", user_prompt=" ", model_response="", preferred_response=""),
        TrainingExample(
            id="b", user_prompt="x\x00", model_response="", preferred_response="\ufffd"
        ),
    ]
    outcome = validate(bad, token_counts=[3, 5000])
    assert not outcome.is_valid
    assert [(p.row, p.field, p.code) for p in outcome.errors] == [
        (1, "user_prompt", "empty"),
        (1, "preferred_response", "empty"),
        (2, "user_prompt", "control_characters"),
        (2, "preferred_response", "encoding"),
        (0, "", "too_few_examples"),
        (2, "preferred_response", "too_long"),
    ]


@pytest.mark.req("DATA-04", "DATA-05")
def test_statistics_are_measured() -> None:
    examples = [example(n) for n in range(12)] + [example(12, example(0).user_prompt.upper())]
    figures = validate(examples, token_counts=list(range(1, 14))).statistics
    assert (figures.examples, figures.duplicates_exact) == (13, 1)
    assert (figures.tokens_min, figures.tokens_p50, figures.tokens_p95) == (1, 7, 13)
    assert figures.bytes == len(to_jsonl(examples))


@pytest.mark.req("DATA-04")
def test_the_last_correction_of_a_prompt_wins() -> None:
    first, other, last = example(1, "same"), example(2, "else"), example(3, "same ")
    assert deduplicate([first, other, last]) == [last, other]


@pytest.mark.req("DATA-09")
@settings(max_examples=40)
@given(
    count=st.integers(10, 60),
    copies=st.integers(0, 20),
    seed=st.integers(0, 5),
    share=st.floats(0.1, 0.5),
)
def test_a_split_is_seeded_and_its_parts_share_nothing(
    count: int, copies: int, seed: int, share: float
) -> None:
    examples = [
        example(n, kind="thumbs_up" if n % 3 else "manual_correction") for n in range(count)
    ]
    examples += [
        example(1000 + n, f"{examples[n % count].user_prompt}!", "thumbs_up") for n in range(copies)
    ]
    parts = split(examples, validation_split=share, seed=seed)
    again = split(examples[::-1], validation_split=share, seed=seed)
    assert parts == again
    prove_disjoint(parts)
    assert sorted(e.id for part in parts.values() for e in part) == sorted(e.id for e in examples)
    assert len(parts["validation"]) <= int(len(examples) * share)
    if copies == 0:
        assert len(parts["validation"]) == int(len(examples) * share)


@pytest.mark.req("DATA-09")
def test_another_seed_splits_otherwise() -> None:
    examples = [example(n) for n in range(50)]
    one, two = (split(examples, validation_split=0.2, seed=s)["validation"] for s in (1, 2))
    assert one != two


@pytest.mark.req("DATA-09")
def test_a_leak_is_an_error() -> None:
    with pytest.raises(DatasetValidationError, match="several splits"):
        prove_disjoint(
            {"training": [example(1)], "validation": [example(2, example(1).user_prompt)]}
        )


@pytest.mark.req("DATA-04")
def test_near_duplicates_are_found_and_others_are_not() -> None:
    text = "The quick brown fox jumps over the lazy dog while the sun sets behind the hills"
    texts = [text, text.replace("hills", "hills!"), text.upper(), "Something else entirely, really"]
    texts.append(text.replace("lazy", "lazi"))
    assert near_duplicate_groups(texts)[:4] == [0, 0, 0, 3]
    assert fingerprint(texts[0]) == fingerprint(texts[1]) == fingerprint(texts[2])
    assert fingerprint(texts[0]) != fingerprint(texts[4])


@pytest.mark.req("DATA-02", "DATA-03")
def test_a_stored_split_has_its_bytes_and_checksum(tmp_path: Path) -> None:
    examples = [example(2), example(1, "Grüße ✓")]
    stored = write_split(tmp_path, "training", examples)
    data = Path(stored.storage_path).read_bytes()
    assert stored.size_bytes == len(data)
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    assert read_examples(Path(stored.storage_path), stored.sha256) == sorted(
        examples, key=lambda e: e.id
    )
    with pytest.raises(DatasetFormatError, match="checksum"):
        read_examples(Path(stored.storage_path), "0" * 64)
    Path(stored.storage_path).write_bytes(data + b"{broken\n")
    with pytest.raises(DatasetFormatError) as caught:
        read_examples(Path(stored.storage_path))
    assert caught.value.details[0].startswith("row 3")
