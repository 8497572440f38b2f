"""Everything about files and batches in one worker: what callers ask, and what is run."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from gateway.batches import anthropic_api, openai_api
from gateway.batches.commits import Commits
from gateway.batches.files import Files
from gateway.batches.runner import Runner
from gateway.client import Client
from gateway.idempotency import idempotency_id
from gateway.inner import InnerCall
from gateway.ledger import Recorder
from gateway.state import GatewayState
from schemas.access import Grant
from schemas.log import Log
from schemas.privacy import MasterKey

_OURS = re.compile(r"/v1/files(/?$|/file-[0-9a-f]{8}-[0-9a-f]{4}-7)")
ROOTS = ("/v1/files", "/v1/batches", anthropic_api.PATH)


class BatchDesk:
    """Serves the paths below `ROOTS`; `runner` does the work."""

    def __init__(
        self,
        state: GatewayState,
        recorder: Recorder,
        log: Log,
        master: MasterKey,
        call: Callable[[InnerCall], Awaitable[None]],
        *,
        actor: str,
        bytes_max: int,
    ) -> None:
        commits = Commits(recorder.outbox, actor, [state.files, state.batches])
        files = Files(state.files, commits, recorder, log, master)
        self.runner = Runner(
            state.batches, files, commits, call, self._was_run, state.outbox_closed
        )
        self._runs = state.runs
        self._openai = openai_api.OpenAIBatches(files, state.batches, commits, bytes_max)
        self._anthropic = anthropic_api.AnthropicBatches(files, state.batches, commits, bytes_max)

    def _was_run(self, key_id: str, idempotency_key: str) -> bool:
        return self._runs.find(idempotency_id(key_id, idempotency_key)) is not None

    @staticmethod
    def serves(path: str) -> bool:
        """Whether a path belongs here; a vendor's own file (another form of id) does not."""
        root = next((r for r in ROOTS if path == r or path.startswith(f"{r}/")), None)
        return root is not None and (root != "/v1/files" or _OURS.match(path) is not None)

    async def serve(self, client: Client, grant: Grant) -> None:
        """Answer one request. Raises the WeirError that says why not."""
        if client.path.startswith(anthropic_api.PATH):
            await self._anthropic.serve(client, grant)
        else:
            await self._openai.serve(client, grant)
