"""The table of evidence says what was measured and nothing else."""

from bench.evidence import figures


def test_figures_stand_beside_their_limits() -> None:
    verdict = {
        "figures": {"lost": 0, "doubled": 2, "p99_s": 1.25, "cases": 48},
        "limits": {
            "lost": "max 0",
            "doubled": "max 0",
            "p99_s": "max 5.0",
            "cases": "exactly 48",
            "missing": "max 0",
            "absent": "max 0.5",
        },
    }
    assert figures(verdict) == (
        "doubled 2 (≤ 0); p99_s 1.25 (≤ 5); cases 48 (= 48); missing None (≤ 0); absent None (≤ 0.5); 0: lost"
    )
