"""Claim: whatever a provider does, its caller gets a whole answer or a clear error, soon, and once billed.

Every fault that the sandbox knows, for both client dialects in front of both provider dialects,
whole and streamed, with and without a second target; then an episode in which every provider of a
route fails in turn and every worker is restarted, `--size` calls long. Compared are the client's ledger, the raw log and the
sandbox's books. The table is kept as ``table.json`` and ``table.md``.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from bench.checks import ADMITTED, CALL_TOPICS, COMPLETED, COST
from bench.claim import Arguments, Limit, Verdict, main
from bench.fault_cells import (
    GONE_S,
    MODELS,
    PACE,
    PATHS,
    Cell,
    Line,
    Seen,
    cells,
    config,
    judge,
    markdown,
)
from bench.load import DEADLINE_S, Ledger, Row, Settings, drive
from bench.rawlog import Raw, audit, dump, read_topics, unique
from bench.recount import ledger, price_list, read_books
from bench.stack import SANDBOX_KEY_VARIABLE, Stack, base_port, fetch
from bench.workload import Request, Shape, Share, workload

SIZE = 1800
CELLS_PER_S = 12.0
TURN_RATE_PER_S = 60.0
TURN_S = 3.0
TURNS = ("turn-0", "turn-1", "turn-2")
WORKERS = ("gateway-0", "gateway-1")
TURN_FAULTS = ("server_error", "unavailable", "reset", "silence", "overloaded")
SETTLED_S = 30.0
RESTARTED_S = 60.0
CIRCUITS_TOPIC = "weir.circuits.changes.v1"
ANSWERED_MIN = 0.999


def measure(arguments: Arguments) -> Verdict:
    """Fill the table, then let every provider fail in turn."""
    table = cells()
    sandbox_url = f"http://127.0.0.1:{base_port() + 6}"
    text = config(table, sandbox_url, SANDBOX_KEY_VARIABLE) + _turn_config(sandbox_url)
    with Stack(arguments.out, seed=arguments.seed, config=text, keep=arguments.keep) as stack:
        for cell in table:
            faults = [] if cell.case.fault is None else [cell.case.fault]
            behaviour = {**cell.case.pace, "faults": faults}
            stack.sandbox.behave(cell.name, MODELS[cell.back], **behaviour)
        for back, model in MODELS.items():
            stack.sandbox.behave(f"good-{back}", model, **PACE)
        rows = _fill(stack, arguments, table)
        healthy = _healthy(stack, table)
        before = stack.pids()
        turns = _turns(stack, arguments)
        restarted = _restarted(stack, before)
        records = _settled(stack, rows + turns)
        circuits = _circuits(stack)
        books = read_books(stack.sandbox.books)
    dump(records, arguments.out / "log.jsonl")
    seen = gathered(rows, records, books)
    figures: dict[str, Any] = {}
    if arguments.sabotage:
        figures["sabotaged"] = spoil(seen, arguments.seed)
    prices = price_list()
    by_name = {cell.name: cell for cell in table}
    lines = [judge(by_name[one.row.model], one, prices) for one in seen]
    (arguments.out / "table.json").write_bytes(msgspec.json.encode(lines))
    (arguments.out / "table.md").write_text(markdown(lines), "utf-8")
    figures |= verdict(lines, [*rows, *turns], records, turns, healthy) | circuits
    figures["workers_restarted"] = restarted
    return Verdict(figures, LIMITS)


LIMITS = [
    Limit("calls", len(cells()), "min"),
    Limit("broken_promises", 0),
    Limit("truncated_as_success", 0),
    Limit("unhealthy_after", 0),
    Limit("unsettled", 0),
    Limit("lost", 0),
    Limit("doubled", 0),
    Limit("answered_in_turns", ANSWERED_MIN, "min"),
    Limit("workers_restarted", len(WORKERS), "min"),
    Limit("circuits_opened", 1, "min"),
    Limit("circuits_misreported", 0),
]


def verdict(
    lines: Sequence[Line],
    rows: Iterable[Row],
    records: Sequence[Raw],
    turns: Sequence[Row],
    unhealthy: int,
) -> dict[str, Any]:
    """Return the figures."""
    rule = audit(records)
    admitted = {_request(one) for one in unique(records) if one.type == ADMITTED}
    completed = Counter(_request(one) for one in unique(records) if one.type == COMPLETED)
    wrong = Counter(name for line in lines for name in line.wrong)
    answered = sum(row.complete for row in turns)
    return {
        "calls": len(lines),
        "faults": len({line.fault for line in lines}),
        "came": dict(Counter(line.came for line in lines)),
        "broken_promises": sum(wrong.values()),
        "broken": dict(wrong),
        "truncated_as_success": wrong["truncated, shown as success"],
        "longest_s": max(line.seconds for line in lines),
        "most_attempts": max(line.attempts for line in lines),
        "unhealthy_after": unhealthy,
        "unsettled": len(admitted - set(completed)),
        "lost": rule.lost + sum(row.complete and row.request_id not in completed for row in rows),
        "doubled": rule.doubled + sum(count > 1 for count in completed.values()),
        "turn_calls": len(turns),
        "answered_in_turns": round(answered / len(turns), 5) if turns else 0.0,
    }


def gathered(
    rows: Sequence[Row], records: Sequence[Raw], books: Iterable[dict[str, Any]]
) -> list[Seen]:
    """Return all sides of each row's call; the log knows the client's own id, an error may not."""
    kept = unique(records)
    admitted: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    completed: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    by_client: dict[str, str] = {}
    for record in kept:
        if record.body is None:
            continue
        if record.type == ADMITTED:
            admitted[_request(record)].append(record.body)
            by_client[str(record.body["tags"].get("client_id"))] = _request(record)
        elif record.type == COMPLETED:
            completed[_request(record)].append(record.body)
    costs = ledger(record for record in kept if record.type == COST)
    calls: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for book in books:
        calls[str(book["weir_request_id"])].append(book)
    seen = []
    for row in rows:
        request = row.request_id or by_client.get(row.client_id, "")
        found = sorted(calls[request], key=lambda book: int(book["started_at_us"]))
        seen.append(Seen(row, admitted[request], completed[request], costs.get(request), found))
    return seen


def spoil(seen: Sequence[Seen], seed: int) -> str:
    """Spoil one record, as the seed says; return what was done."""
    draw = random.Random(f"sabotage {seed}")
    answered = [one for one in seen if one.row.complete]
    failed = [one for one in seen if not one.row.complete and one.row.status == 200]
    match draw.randrange(4):
        case 0:
            draw.choice(failed).row.complete = True
            return "a broken stream counts as complete"
        case 1:
            one = draw.choice(answered)
            one.completed = one.completed * 2
            return "doubled one outcome of the log"
        case 2:
            draw.choice(answered).row.headers["x-weir-model"] = "somebody/else"
            return "named another model"
    one = draw.choice(answered)
    one.cost_nano_usd = (one.cost_nano_usd or 0) + 1
    return "one answer costs a nano-dollar more"


def _request(record: Raw) -> str:
    return str((record.body or {}).get("request_id"))


def _fill(stack: Stack, arguments: Arguments, table: Sequence[Cell]) -> list[Row]:
    """Make the calls of the table, in an order drawn from the seed."""
    draw = random.Random(f"cells {arguments.seed}")
    staying = [c.request(n) for c in table if not c.case.leaves for n in range(c.case.calls)]
    leaving = [c.request(n) for c in table if c.case.leaves for n in range(c.case.calls)]
    draw.shuffle(staying)
    book = Ledger(arguments.out / "client.jsonl")
    for requests, deadline_s in ((staying, DEADLINE_S), (leaving, GONE_S)):
        times_s = (number / CELLS_PER_S for number in range(len(requests)))
        settings = Settings(stack.url, stack.key, deadline_s=deadline_s)
        asyncio.run(drive(settings, iter(requests), times_s, book))
    book.close()
    return book.rows


def _healthy(stack: Stack, table: Sequence[Cell]) -> int:
    """Return how many targets do not answer once their faults are over; every one is called."""
    names = {cell.name: cell.back for cell in table}
    for cell in table:
        stack.sandbox.behave(cell.name, MODELS[cell.back], **PACE)
    requests = []
    for name, back in (names | {f"good-{back}": back for back in MODELS}).items():
        body = {
            "model": f"{name}/{MODELS[back]}",
            "messages": [{"role": "user", "content": "Are you well?"}],
            "max_tokens": 5,
        }
        requests.append(
            Request(
                f"after/{name}",
                0,
                back,
                PATHS[back],
                str(body["model"]),
                False,
                msgspec.json.encode(body),
                "bench",
                {},
                "chat",
                "",
            )
        )
    book = Ledger()
    times_s = (number / (2 * CELLS_PER_S) for number in range(len(requests)))
    asyncio.run(drive(Settings(stack.url, stack.key), iter(requests), times_s, book))
    fetch(f"{stack.url}/ready")
    return sum(not row.complete for row in book.rows)


# --- every provider in turn ----------------------------------------------------------------------


def _turn_config(sandbox_url: str) -> str:
    providers = "".join(
        f'\n[providers.{name}]\ndialect = "openai"\nbase_url = "{sandbox_url}/{name}/v1"\n'
        f'key_env = "{SANDBOX_KEY_VARIABLE}"\nprice_provider = "openai"\n'
        f'models = ["{MODELS["openai"]}"]\n'
        for name in TURNS
    )
    targets = ", ".join(f'{{ target = "{name}/{MODELS["openai"]}" }}' for name in TURNS)
    return providers + (
        f"\n[routes.in-turn]\ntargets = [{targets}]\nattempts = 3\n"
        "first_token_timeout_ms = 1000\nstall_timeout_ms = 5000\nconnect_timeout_ms = 1000\n"
    )


def _turns(stack: Stack, arguments: Arguments) -> list[Row]:
    """Let one provider after the other fail while calls go on; return the client's rows.

    In the middle every worker is told to stop, one after the other; its supervisor starts it again.
    """
    draw = random.Random(f"turns {arguments.seed}")
    model = MODELS["openai"]
    pace = {"first_token_ms": 10, "per_token_ms": 0.5, "answer_tokens_max": 24}
    for name in TURNS:
        stack.sandbox.behave(name, model, **pace)
    over = threading.Event()

    def fail() -> None:
        turn = 0
        while not over.wait(0.0):
            name, kind = TURNS[turn % len(TURNS)], draw.choice(TURN_FAULTS)
            stack.sandbox.behave(name, model, **pace, faults=[{"kind": kind}])
            over.wait(TURN_S)
            stack.sandbox.behave(name, model, **pace)
            turn += 1

    shape = Shape(
        (Share("openai", "in-turn"), Share("anthropic", "in-turn")),
        tools=0.0,
        feedback=0.0,
        words_median=20,
        words_max=100,
        answer_tokens=(16,),
    )
    book = Ledger(arguments.out / "turns.jsonl")
    times_s = (number / TURN_RATE_PER_S for number in range(arguments.size))

    def restart() -> None:
        """Stop each worker once, the next when the last one serves again, however short the load is."""
        for name in WORKERS:
            pid = stack.pids()[name]
            os.kill(pid, signal.SIGTERM)
            until_s = time.monotonic() + RESTARTED_S
            while time.monotonic() < until_s:
                time.sleep(0.2)
                part = next(one for one in stack.state()["parts"] if one["name"] == name)
                if part["status"] == "ready" and part["pid"] != pid:
                    break

    threads = [threading.Thread(target=fail), threading.Thread(target=restart)]
    for thread in threads:
        thread.start()
    try:
        settings = Settings(stack.url, stack.key)
        asyncio.run(drive(settings, workload(arguments.seed, shape), times_s, book))
    finally:
        over.set()
        for thread in threads:
            thread.join()
        book.close()
    return book.rows


def _circuits(stack: Stack) -> dict[str, int]:
    """Return how many circuits the log saw open, and how many the endpoint tells otherwise."""
    last: dict[str, dict[str, Any]] = {}
    opened = set()
    for record in unique(read_topics(stack.bootstrap, [CIRCUITS_TOPIC])):
        if record.body is not None:
            last[str(record.body["target"])] = record.body
            opened |= {str(record.body["target"])} if record.body["state"] == "open" else set()
    answer = fetch(f"{stack.url}/routing/circuits?limit=1000", key=stack.key)
    told = {f"{one['provider']}/{one['model']}": one["state"] for one in answer["circuits"]}
    # An open circuit becomes half open by the clock alone, event or not.
    wrong = [
        target
        for target, body in last.items()
        if told.get(target) != body["state"]
        and (body["state"], told.get(target)) != ("open", "half_open")
    ]
    return {"circuits_opened": len(opened), "circuits_misreported": len(wrong)}


def _restarted(stack: Stack, before: dict[str, int]) -> int:
    """Return how many workers run in another process than before."""
    now = stack.pids()
    return sum(name in now and now[name] != before[name] for name in WORKERS)


def _settled(stack: Stack, rows: Sequence[Row]) -> list[Raw]:
    """Return the log once it has an outcome for every call that the clients know of."""
    until_s = time.monotonic() + SETTLED_S
    while True:
        records = read_topics(stack.bootstrap, CALL_TOPICS)
        done = {_request(record) for record in records if record.type == COMPLETED}
        begun = {_request(record) for record in records if record.type == ADMITTED}
        wanted = {row.request_id for row in rows if row.request_id} | begun
        if wanted <= done or time.monotonic() > until_s:
            return records
        time.sleep(0.5)


if __name__ == "__main__":
    main("fault_table", SIZE, measure)
