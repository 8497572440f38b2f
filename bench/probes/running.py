"""What both Python probes share: the plan that they are given, and the rows that they print.

It runs in whatever environment holds the client, so it uses the standard library alone.
"""

import json
import sys
import time
import traceback
from types import SimpleNamespace

DETAIL_CHARS = 900


def main(client, version, cases, make):
    """Run what the plan asks of this client; print a row for each case and target.

    A case is a function of (client, target, script); `make` takes (url, key).
    """
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    script = SimpleNamespace(**plan["script"])
    made = make(plan["url"], plan["key"])
    for target in plan["targets"]:
        for name in target["cases"][client]:
            begun = time.monotonic()
            try:
                cases[name](made, SimpleNamespace(**target), script)
                detail = None
            except Exception:  # noqa: BLE001 - whatever went wrong is the result
                detail = traceback.format_exc(limit=4)[-DETAIL_CHARS:]
            row = {
                "client": client,
                "version": version,
                "case": name,
                "target": target["name"],
                "ok": detail is None,
                "detail": detail,
                "seconds": round(time.monotonic() - begun, 3),
            }
            print(json.dumps(row), flush=True)


def until(look, done, patience_s):
    """Return what `look` gives once `done` says so. Raises TimeoutError."""
    deadline = time.monotonic() + patience_s
    while not done(found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {found}")
        time.sleep(0.2)
    return found


def refused(kind, statuses, call):
    """Return the error of this kind, with one of these statuses, that a call must raise."""
    try:
        call()
    except kind as raised:
        error = raised
    else:
        raise AssertionError(f"no {kind.__name__} came")
    assert error.status_code in statuses, f"{error.status_code}, not in {statuses}: {error}"
    assert error.response.headers["x-weir-request-id"]
    return error
