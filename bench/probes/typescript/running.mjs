// What both TypeScript probes share: the plan that they are given, and the rows that they print.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const DETAIL_CHARS = 900;

/** Run what the plan asks of this client; print a row for each case and target. */
export async function main(client, version, cases, make) {
  const plan = JSON.parse(readFileSync(process.argv[2], "utf8"));
  const made = make(plan.url, plan.key);
  for (const target of plan.targets) {
    for (const name of target.cases[client]) {
      const begun = performance.now();
      let detail = null;
      try {
        await cases[name](made, target, plan.script);
      } catch (error) {
        detail = String(error?.stack ?? error).slice(0, DETAIL_CHARS);
      }
      const seconds = Math.round(performance.now() - begun) / 1_000;
      const row = { client, version, case: name, target: target.name, ok: detail === null, detail, seconds };
      console.log(JSON.stringify(row));
    }
  }
}

/** Ask until `done` says so. */
export async function until(look, done, patienceS) {
  const deadline = performance.now() + patienceS * 1_000;
  for (;;) {
    const found = await look();
    if (done(found)) return found;
    assert(performance.now() < deadline, `still ${JSON.stringify(found)}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

/** Return the error of this kind and status that a call must raise. */
export async function refused(kind, status, call) {
  try {
    await call();
  } catch (error) {
    assert(error instanceof kind, `${error} is no ${kind.name}`);
    assert.equal(error.status, status);
    assert(error.headers.get("x-weir-request-id"));
    return error;
  }
  throw new Error(`no ${kind.name} came`);
}

/** A place as `structured` and the tool's arguments have it. */
export function isPlace(value) {
  assert.deepEqual([typeof value.city, typeof value.days], ["string", "number"]);
}
