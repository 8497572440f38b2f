"""Presets (CFG-01): settings that go together, below everything that is said by name."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "development": {
        "log_level": "debug",
        "limits": {"preset": {"scope": "ip", "requests_per_minute": 120}},
        "docs": True,
    },
    "testing": {
        "log_level": "warning",
        "workers": 1,
        "trainer": "off",
        "sandbox": "on",
        "parts": {"gateway": {"cache_bytes_max": 1024 * 1024}},
    },
    "production": {
        "log_level": "info",
        "limits": {"preset": {"scope": "ip", "requests_per_minute": 30}},
        "call_timeout_seconds": 60.0,
        "docs": False,
    },
}
"""`development`: debug, 120 calls a minute. `testing`: no limit, the smallest cache. `production`: 30
calls a minute, answers within 60 seconds."""
