"""The verdict over one run: the client's ledger against the log, DuckDB, the books and the spend.

Pure functions over what was gathered, so that a test can spoil one record and see the claim fail.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from bench.fault_plan import Death
from bench.load import Row
from bench.rawlog import Raw, audit, unique
from bench.recount import Call, drift_nano_usd, ledger

ADMITTED = "weir.llm.request.admitted"
COMPLETED = "weir.llm.response.completed"
COST = "weir.llm.cost.entered"
CALL_TOPICS = ("weir.llm.requests.v1", "weir.llm.responses.v1", "weir.llm.costs.v1")
MARGIN_US = 1_000_000
"""A kept connection may be written to this long after its worker's death, before the kernel has
ended the process and a busy client has read that it is closed."""
HEARD_US = 3_000_000
"""How long after its worker's death a busy client may notice."""


class Gathered(msgspec.Struct):
    """All sides of one run. `projected` counts the rows of each request in DuckDB."""

    records: list[Raw]
    books: dict[str, Call]
    projected: dict[str, int]
    spend_nano_usd: int


class Calls(msgspec.Struct):
    """The unique events of the log, by request id."""

    admitted: dict[str, dict[str, Any]]
    completed: dict[str, list[dict[str, Any]]]
    costs: dict[str, int]

    @property
    def unsettled(self) -> list[str]:
        """Admitted requests without an outcome."""
        return [request for request in self.admitted if request not in self.completed]

    def ended(self, outcome: str) -> list[str]:
        """Requests with this outcome."""
        return [r for r, ends in self.completed.items() if ends[0]["outcome"] == outcome]


def calls(records: Iterable[Raw]) -> Calls:
    """Return the calls in a log, each event once by its id."""
    kept = unique(records)
    completed: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    admitted = {}
    for record in kept:
        if record.body is None:
            continue
        if record.type == ADMITTED:
            admitted[str(record.body["request_id"])] = record.body
        elif record.type == COMPLETED:
            completed[str(record.body["request_id"])].append(record.body)
    return Calls(admitted, dict(completed), ledger(r for r in kept if r.type == COST))


def judge(rows: Sequence[Row], gathered: Gathered) -> dict[str, int]:
    """Return the figures that must all be zero, and what they are measured on.

    - `lost`: complete answers without exactly one successful outcome in the log or one row in DuckDB
    - `doubled`: requests with more than one outcome in the log or row in DuckDB
    - `repeat_rule_broken`: events that consumers would lose or double by (outbox, sequence)
    - `unsettled`: admitted requests without an outcome
    - `drift_nano_usd`: ledger per request against the books; an abandoned request counts as its
      reservation, which is all that anybody can know of it
    - `spend_drift_nano_usd`: the spend table against the same sum
    """
    found, rule = calls(gathered.records), audit(gathered.records)
    answers = [row for row in rows if row.complete]
    expected = _expected_costs(found, gathered.books)
    return {
        "answers": len(answers),
        "lost": sum(not _answered(row, found, gathered.projected) for row in answers),
        "doubled": sum(len(ends) > 1 for ends in found.completed.values())
        + sum(count > 1 for count in gathered.projected.values()),
        "not_projected": sum(request not in gathered.projected for request in found.completed),
        "repeats": rule.repeats,
        "repeat_rule_broken": rule.lost + rule.doubled,
        "unsettled": len(found.unsettled),
        "abandoned": len(found.ended("abandoned")),
        "cost_usd_nano": sum(expected.values()),
        "drift_nano_usd": drift_nano_usd(expected, found.costs),
        "spend_drift_nano_usd": abs(sum(expected.values()) - gathered.spend_nano_usd),
        "unasked_calls": gathered.books[""].calls if "" in gathered.books else 0,
    }


def _answered(row: Row, found: Calls, projected: dict[str, int]) -> bool:
    ends = found.completed.get(row.request_id or "", [])
    return (
        bool(ends)
        and ends[0]["outcome"] == "success"
        and projected.get(row.request_id or "", 0) >= 1
    )


def _expected_costs(found: Calls, books: dict[str, Call]) -> dict[str, int]:
    costs = {}
    for request, ends in found.completed.items():
        if ends[0]["outcome"] == "abandoned":
            costs[request] = int(found.admitted[request]["reserved_nano_usd"] or 0)
        elif request in books:
            costs[request] = books[request].cost_nano_usd
    return costs


def workers_of(found: Calls) -> dict[str, str]:
    """Return which worker admitted each request, by the id that the client gave it."""
    return {
        str(body["tags"]["client_id"]): str(body["worker"])
        for body in found.admitted.values()
        if "client_id" in body["tags"]
    }


def unexcused(
    rows: Iterable[Row], deaths: Iterable[Death], worker_of: Mapping[str, str]
) -> list[Row]:
    """Return the failed rows whose gateway worker did not die under them.

    Only a broken connection can be excused, never an error answer or a silence. The death must lie
    between the sending and the end of the row, and the end soon after the death. Where the log knows which worker had admitted the
    request, only the death of that one counts; one that nobody admitted was on its way to any.
    """
    workers = [death for death in deaths if death.part.startswith("gateway")]
    bad = []
    for row in rows:
        own = worker_of.get(row.client_id)
        if not row.complete and not (
            row.status in (0, 200)
            and row.error not in (None, "deadline")
            and any(
                row.sent_at_us - MARGIN_US <= death.at_us
                and -MARGIN_US <= row.ended_at_us - death.at_us <= HEARD_US
                for death in workers
                if own in (None, death.part)
            )
        ):
            bad.append(row)
    return bad


def spoil(gathered: Gathered, seed: int) -> str:
    """Drop or double one record, as the seed says; return what was done. `judge` must notice."""
    draw = random.Random(f"sabotage {seed}")
    outcomes = [n for n, record in enumerate(gathered.records) if record.type == COMPLETED]
    costs = [n for n, record in enumerate(gathered.records) if record.type == COST]
    match draw.randrange(4):
        case 0:
            del gathered.records[draw.choice(outcomes)]
            return "dropped one outcome of the log"
        case 1:
            record = gathered.records[draw.choice(outcomes)]
            body = (record.body or {}) | {"event_id": "doubled"}
            gathered.records.append(
                msgspec.structs.replace(record, body=body, outbox=None, sequence=None)
            )
            return "doubled one outcome of the log"
        case 2:
            del gathered.records[draw.choice(costs)]
            return "dropped one line of the ledger"
    request = draw.choice(sorted(gathered.projected))
    gathered.projected[request] += 1
    return "doubled one row of DuckDB"


def count_by(bodies: Iterable[dict[str, Any]], field: str) -> dict[str, int]:
    """Return how often each value of a field occurs."""
    return dict(Counter(str(body[field]) for body in bodies))
