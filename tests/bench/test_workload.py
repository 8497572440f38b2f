"""The workload is a pure function of its seed, and looks like what it says."""

import json
from itertools import islice

import pytest

from bench.load import share
from bench.workload import Shape, Share, arrivals, workload


def test_the_same_seed_gives_the_same_requests() -> None:
    first, again, other = (list(islice(workload(seed), 50)) for seed in (1, 1, 2))
    assert first == again != other


def test_shares_come_out_as_asked() -> None:
    requests = list(islice(workload(3, Shape(streams=0.5, tools=0.2, feedback=0.1)), 2_000))
    for picked, wanted in (
        (sum(request.stream for request in requests), 1_000),
        (sum(request.tools for request in requests), 400),
        (sum(request.feedback is not None for request in requests), 200),
        (sum(request.dialect == "anthropic" for request in requests), 750),
    ):
        assert 0.8 * wanted < picked < 1.2 * wanted
    lengths = sorted(len(request.body) for request in requests)
    assert lengths[1_900] > 3 * lengths[1_000], "prompts have a long tail"
    assert len({request.prompt for request in requests}) == len(requests)


def test_bodies_say_what_the_request_says() -> None:
    for request in islice(workload(4), 200):
        body = json.loads(request.body)
        assert body["model"] == request.model
        assert body.get("stream", False) == request.stream
        assert ("tools" in body) == request.tools
        assert body["messages"][-1] == {"role": "user", "content": request.prompt}


def test_arrivals_keep_the_rate() -> None:
    times = list(arrivals(1, 100.0, 60.0))
    assert times == sorted(times) == list(arrivals(1, 100.0, 60.0))
    assert 5_500 < len(times) < 6_500
    assert times[-1] < 60


def test_models_of_the_command_line() -> None:
    assert share("openai:a/gpt-4o=2") == Share("openai", "a/gpt-4o", 2.0)
    with pytest.raises(ValueError, match="DIALECT"):
        share("gpt-4o")
