"""The claims on a whole Weir, small: each holds, and fails when one record is spoilt."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.broker import free_port

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _run(claim: str, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"bench.{claim}", "--out", str(out), *arguments]
    environment = os.environ | {"BENCH_PORT": str(free_port())}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.req("BEY-03", "EVT-02", "EVT-04", "EVT-05")
def test_no_death_takes_anything_along(tmp_path: Path) -> None:
    ended = _run("faults", tmp_path, "--size", "10")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.req("BEY-01", "BEY-02", "BEY-18", "PROV-01", "PROV-02")
def test_the_official_clients_work_unmodified(tmp_path: Path) -> None:
    ended = _run("conformance", tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.req("BEY-08", "COST-01", "PROV-08")
def test_the_ledger_is_what_the_books_come_to(tmp_path: Path) -> None:
    ended = _run("ledger", tmp_path, "--size", "2000")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.req("RT-09", "RT-10", "RT-11", "RT-12", "RT-13", "RT-14")
def test_each_rule_fires_on_its_incident_and_undoes_itself(tmp_path: Path) -> None:
    ended = _run("rules", tmp_path, "--size", "1")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.req("RT-09", "RT-10")
def test_a_slow_provider_gives_calls_away_and_gets_them_back(tmp_path: Path) -> None:
    ended = _run("rules_live", tmp_path, "--size", "15")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.req("EVT-04", "BEY-15", "RT-15")
def test_a_canarys_statistics_are_those_of_the_drawn_calls(tmp_path: Path) -> None:
    ended = _run("canaries", tmp_path, "--size", "800")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.req("GEN-05", "GW-16")
def test_bad_input_is_refused_clearly(tmp_path: Path) -> None:
    ended = _run("bad_input", tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.req("EVT-02", "EVT-04", "PERF-11")
def test_live_tables_are_exact_whatever_dies(tmp_path: Path) -> None:
    ended = _run("exactness", tmp_path, "--size", "30000")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.req("GEN-06", "GW-16", "BEY-12")
def test_no_case_that_the_document_allows_or_forbids_breaks_anything(tmp_path: Path) -> None:
    ended = _run("fuzz", tmp_path, "--size", "2500")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.req("GW-09", "GEN-05")
def test_hostile_sockets_are_contained(tmp_path: Path) -> None:
    ended = _run("hostile", tmp_path, "--size", "1")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.req("OPS-01", "COST-04")
def test_each_alert_is_raised_once_and_told_whoever_dies(tmp_path: Path) -> None:
    ended = _run("alerts", tmp_path, "--size", "20")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.req("COST-09", "ANA-04")
def test_what_is_spent_is_seen_at_once(tmp_path: Path) -> None:
    ended = _run("realtime", tmp_path, "--size", "10")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.req("ANA-05", "COST-08")
def test_incidents_are_found_with_who_made_the_difference(tmp_path: Path) -> None:
    ended = _run("anomalies", tmp_path, "--size", "14")
    assert '"told_twice": 0' in ended.stdout, ended.stdout + ended.stderr
    assert (tmp_path / "worlds.jsonl").exists()


@pytest.mark.req("COST-07", "ANA-08")
def test_forecasts_beat_seasonal_naive(tmp_path: Path) -> None:
    ended = _run("forecasts", tmp_path, "--size", "20")
    assert ended.returncode == 0, ended.stdout + ended.stderr


SABOTAGED = {
    "visibility": "50",
    "rules": "1",
    "rules_live": "15",
    "canaries": "300",
    "bad_input": "1",
    "conformance": "1",
    "ledger": "800",
    "exactness": "10000",
    "fuzz": "800",
    "hostile": "1",
    "alerts": "20",
    "realtime": "5",
    "adaptive": "1",
    "anomalies": "7",
    "forecasts": "6",
    "revocation": "6",
    "split": "4000",
}


@pytest.mark.parametrize("claim", SABOTAGED)
def test_one_spoilt_record_fails_the_claim(claim: str, tmp_path: Path) -> None:
    ended = _run(claim, tmp_path, "--size", SABOTAGED[claim], "--sabotage")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert '"pass": false' in ended.stdout
