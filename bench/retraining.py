"""Claim: corrections become a better model with nobody touching anything, and worthless ones are refused.

A rule drawn from the seed says how answers should have looked. `--size` corrections by that rule go in
through the gateway; they trip a lowered threshold, and a tuned version has to appear under its own name
and beat its base on 200 questions that neither pretraining nor corrections contain, asked through the
gateway. The trainer is killed with -9 in the middle of the fine-tune. A second Weir gets the same
corrections with the answers shuffled among the prompts: its version has to be refused.

The answers are judged here, by equality with the rule, without the trainer's own evaluation. The base is
pretrained by `weir base-model` first; BENCH_TINY_BASE names the folder of one that exists already.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from bench.claim import Arguments, Limit, Verdict, main
from bench.rawlog import read_topics, unique
from bench.stack import Stack, fetch
from infra.trainer_env import trainer_python
from trainer.corpus import Question, style_of, unseen_questions

CASES = 200
BASE = "tiny"
JOBS = "/api/model-training/training-jobs"
FEEDBACK_TOPIC = "weir.llm.feedback.v1"
AT_ONCE = 8
SERVED_S = 180.0
RUN_S = 1_500.0
READY_S = 300.0
KILL_AT_STEP = 12
POLL_S = 0.25

Json = Any


def ask(stack: Stack, model: str, prompt: str) -> tuple[str, str]:
    """Return the answer's text and the id under which the vendor's dialect knows it."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 32,
    }
    url = f"{stack.url}/v1/chat/completions"
    answer = fetch(url, key=stack.key, method="POST", body=body, timeout_s=120.0)
    return str(answer["choices"][0]["message"]["content"]), str(answer["id"])


def ask_all(stack: Stack, model: str, questions: Sequence[Question]) -> list[str]:
    """Return the answers to all questions, in their order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [text for text, _ in pool.map(lambda q: ask(stack, model, q.prompt), questions)]


def correct(stack: Stack, questions: Sequence[Question], wanted: Sequence[str]) -> list[Json]:
    """Ask the base, correct every answer, and return the client's ledger of the feedback."""
    ledger = []
    for question, text in zip(questions, wanted, strict=True):
        answer, _ = ask(stack, BASE, question.prompt)
        body = {
            "feedback_type": "manual_correction",
            "original_prompt": question.prompt,
            "model_response": answer,
            "corrected_response": text,
            "satisfaction_score": -0.5,
            "model_id": BASE,
        }
        url = f"{stack.url}/api/model-training/feedback"
        given = fetch(url, key=stack.key, method="POST", body=body)
        ledger.append({"id": given["id"], **body})
    return ledger


def wait(what: str, seconds: float, look: Callable[[], Json]) -> Json:
    """Return the first true answer of `look`. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    last: BaseException | None = None
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except OSError as error:
            last = error
        time.sleep(POLL_S)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s ({last})")


def job_of(stack: Stack) -> Json:
    """Return the only run, None while there is none."""
    jobs = fetch(f"{stack.url}{JOBS}", key=stack.key)["training_jobs"]
    return jobs[0] if jobs else None


def kill_trainer(stack: Stack) -> int:
    """Kill the trainer once it is well into the fine-tune; return the step it had reached."""

    def tuning() -> Json:
        job = job_of(stack)
        if job and job["status"] in {"failed", "refused"}:
            raise RuntimeError(f"the run ended early: {job['message']}")
        reading = job and job["tuning"]
        return reading if reading and reading["step"] >= KILL_AT_STEP else None

    reading = wait("the fine-tune", RUN_S, tuning)
    os.kill(stack.pids()["trainer"], signal.SIGKILL)
    return int(reading["step"])


def finished(stack: Stack) -> Json:
    """Return the run once it has ended."""

    def ended() -> Json:
        job = job_of(stack)
        return job if job and job["ended_at"] else None

    return wait("the end of the run", RUN_S, ended)


def steps_of(stack: Stack, job: Json) -> dict[str, Json]:
    """Return the run's steps by name."""
    steps = fetch(f"{stack.url}{JOBS}/{job['job_id']}/steps", key=stack.key)["steps"]
    return {step["step"]: step for step in steps}


def gain_interval(wins: int, losses: int, cases: int) -> tuple[float, float]:
    """The exact 95% interval of the paired gain, given how many pairs differ."""
    if wins + losses == 0:
        return 0.0, 0.0
    share = binomtest(wins, wins + losses).proportion_ci(0.95, method="exact")
    scale = (wins + losses) / cases
    return (2 * share.low - 1) * scale, (2 * share.high - 1) * scale


class Weir(Stack):
    """A Weir with the trainer on, the threshold lowered, and the tiny base in its folder."""

    def __init__(self, arguments: Arguments, name: str, base: Path) -> None:
        python = os.environ.get("WEIR_TRAINER_PYTHON")
        super().__init__(
            arguments.out / name,
            seed=arguments.seed,
            environment={
                "WEIR_TRAINER": "on",
                "WEIR_FEEDBACK_THRESHOLD": str(arguments.size),
                **({"WEIR_TRAINER_PYTHON": python} if python else {}),
            },
            keep=arguments.keep,
        )
        shutil.copytree(base, self.home / "models" / "bases" / BASE)

    def start(self, timeout_s: float = READY_S) -> float:
        """As `Stack.start`; what a start may take is another claim's business."""
        return super().start(timeout_s)


def make_base(out: Path, seed: int) -> tuple[Path, float]:
    """Return the folder of a pretrained base, and the seconds that it took."""
    if ready := os.environ.get("BENCH_TINY_BASE"):
        return Path(ready), 0.0
    begun, target = time.monotonic(), out / BASE
    command = [str(trainer_python()), "-m", "trainer.tiny", str(target), "--seed", str(seed)]
    with (out / "base-model.log").open("wb") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return target, time.monotonic() - begun


def learn(arguments: Arguments, base: Path) -> dict[str, Json]:
    """Corrections by the rule: figures of the run, and of base and version on unseen cases."""
    style = style_of(arguments.seed)
    questions = unseen_questions(arguments.seed, arguments.size + CASES)
    taught, unseen = questions[: arguments.size], questions[arguments.size :]
    with Weir(arguments, "rule", base) as stack:
        wait("the base model", SERVED_S, lambda: ask(stack, BASE, taught[0].prompt)[0])
        ledger = correct(stack, taught, [style.render(q.words) for q in taught])
        write(arguments.out / "corrections.jsonl", ledger)
        killed_at = kill_trainer(stack)
        job = finished(stack)
        steps = steps_of(stack, job)
        if job["status"] != "completed":
            raise RuntimeError(f"the run was {job['status']}: {job['message']}")
        version = job["model_id"]
        wait("the tuned model", SERVED_S, lambda: ask(stack, version, taught[0].prompt)[0])
        before, after = (ask_all(stack, model, unseen) for model in (BASE, version))
        kept = unique(read_topics(stack.bootstrap, [FEEDBACK_TOPIC]))
    ids = [str(record.body["feedback_id"]) for record in kept if record.body]
    if arguments.sabotage:
        ids.pop()
    rows = [
        {"prompt": q.prompt, "wanted": style.render(q.words), "base": b, "tuned": t}
        for q, b, t in zip(unseen, before, after, strict=True)
    ]
    write(arguments.out / "cases.jsonl", rows)
    figures = compare(rows)
    sent = [str(row["id"]) for row in ledger]
    return figures | {
        "rule": style.instruction(),
        "version": version,
        "feedback_lost": len(set(sent) - set(ids)),
        "feedback_doubled": len(ids) - len(set(ids)),
        "examples_collected": int(steps["collect"]["metrics"]["examples"]),
        "trainer_kills": 1,
        "killed_at_step": killed_at,
        "tune_starts": int(steps["tune"]["attempts"]),
        "training_seconds": steps["tune"]["metrics"]["training_seconds"],
        "trigger_to_deployed_seconds": steps["learn"]["metrics"]["trigger_to_deployed_seconds"],
    }


def compare(rows: Sequence[Json]) -> dict[str, Json]:
    """Judge base and tuned version by equality with the rule's answer."""
    right = [(row["base"] == row["wanted"], row["tuned"] == row["wanted"]) for row in rows]
    wins = sum(after and not before for before, after in right)
    losses = sum(before and not after for before, after in right)
    lower, upper = gain_interval(wins, losses, len(rows))
    return {
        "cases": len(rows),
        "base_right": sum(before for before, _ in right),
        "tuned_right": sum(after for _, after in right),
        "gain": round((wins - losses) / len(rows), 4),
        "gain_lower": round(lower, 4),
        "gain_upper": round(upper, 4),
    }


def refuse(arguments: Arguments, base: Path) -> dict[str, Json]:
    """Shuffled corrections: whether the version was refused, archived, and never deployed."""
    style = style_of(arguments.seed)
    taught = unseen_questions(arguments.seed, arguments.size + CASES)[: arguments.size]
    wanted = [style.render(question.words) for question in taught]
    random.Random(f"shuffle.{arguments.seed}").shuffle(wanted)
    with Weir(arguments, "shuffled", base) as stack:
        wait("the base model", SERVED_S, lambda: ask(stack, BASE, taught[0].prompt)[0])
        write(arguments.out / "shuffled.jsonl", correct(stack, taught, wanted))
        job = finished(stack)
        url = f"{stack.url}/api/model-training/models/{job['model_id']}"
        version = fetch(url, key=stack.key)
    return {
        "shuffled_outcome": job["status"],
        "shuffled_reason": job["message"],
        "shuffled_refused": int(job["status"] == "refused" and version["status"] == "archived"),
        "shuffled_deployments": len(version["deployments"]),
    }


def write(file: Path, rows: Sequence[Json]) -> None:
    """Keep a ledger."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def measure(arguments: Arguments) -> Verdict:
    """Run both Weirs, one after the other."""
    if arguments.size < 40:
        sys.exit("fewer than 40 corrections leave too few held-out examples for the gate")
    base, base_s = make_base(arguments.out, arguments.seed)
    figures: dict[str, Json] = {"corrections": arguments.size, "base_seconds": round(base_s, 1)}
    figures |= learn(arguments, base)
    figures |= refuse(arguments, base)
    return Verdict(
        figures=figures,
        limits=[
            Limit("gain_lower", 0.0001, "min"),
            Limit("cases", CASES, "min"),
            Limit("trainer_kills", 1, "min"),
            Limit("tune_starts", 2, "min"),
            Limit("feedback_lost", 0),
            Limit("feedback_doubled", 0),
            Limit("examples_collected", arguments.size, "equal"),
            Limit("shuffled_refused", 1, "min"),
            Limit("shuffled_deployments", 0),
        ],
    )


if __name__ == "__main__":
    main("retraining", 40, measure)
