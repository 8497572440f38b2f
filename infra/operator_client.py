"""The command's way to control: over loopback HTTP, with a token that only this user can read.

So commands on the installation's own machine need no API key, and the first admin key need not
lie on the disk.
"""

import http.client
import json
from typing import Any

from infra.secret_files import operator_token
from infra.settings import WeirSettings
from schemas.errors import Unavailable, WeirError

_ANSWER_S = 330.0


class RemoteError(WeirError):
    """What control answered, in its own words."""

    code = "remote_error"


class Operator:
    """Talks to the control part of the installation on this machine."""

    def __init__(self, settings: WeirSettings) -> None:
        self._port = settings.control_port
        self._token = operator_token(settings.home)

    def get(self, path: str) -> Any:
        """GET a path; its JSON. Raises RemoteError, Unavailable."""
        return self._call("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        """POST JSON to a path; the JSON that comes back. Raises RemoteError, Unavailable."""
        return self._call("POST", path, json.dumps(body).encode())

    def put(self, path: str, body: Any) -> Any:
        """PUT JSON to a path; the JSON that comes back. Raises RemoteError, Unavailable."""
        return self._call("PUT", path, json.dumps(body).encode())

    def patch(self, path: str, body: Any) -> Any:
        """PATCH JSON to a path; the JSON that comes back. Raises RemoteError, Unavailable."""
        return self._call("PATCH", path, json.dumps(body).encode())

    def delete(self, path: str) -> Any:
        """DELETE a path; the JSON that comes back. Raises RemoteError, Unavailable."""
        return self._call("DELETE", path, None)

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_S)
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
        }
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read()
        except OSError as error:
            raise Unavailable(
                f"control does not answer on port {self._port}: {error}",
                action="See `weir status`; a part that died is started again within seconds.",
            ) from error
        finally:
            connection.close()
        answer = json.loads(text) if text else None
        if response.status >= http.client.BAD_REQUEST:
            detail = (answer or {}).get("error", {})
            raise RemoteError(
                detail.get("message", f"control answered {response.status}"),
                details=detail.get("details"),
                action=detail.get("action"),
            )
        return answer
