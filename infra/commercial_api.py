"""`GET /commercial/test` and `GET /commercial/models` (GW-06): do the vendors answer, and with what."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from gateway.http1 import Pool
from gateway.probing import Probe, probe
from gateway.upstream import Upstream
from infra.admin_desk import ANSWERS
from infra.vendors import LOCAL_PROVIDER
from schemas.encoder import LONG_MAX
from schemas.errors import NotFound
from schemas.events.changes import ProviderChanged, TargetChanged
from schemas.table_view import TableView

TEST_PATHS = ("/commercial/test", "/api/v1/commercial/test")
MODELS_PATHS = ("/commercial/models", "/api/v1/commercial/models")
_AT_ONCE = 8


class ConnectionTestResult(BaseModel):
    """One provider's answer to a real call with its key."""

    provider: str = Field(description="the provider's name", examples=["openai"])
    ok: bool = Field(description="whether it answered as it should")
    latency_ms: float | None = Field(description="how long that took, connecting included")
    error_code: str | None = Field(description="why not", examples=["upstream_authentication"])
    error: str | None = Field(description="why not, in words")
    action: str | None = Field(description="what to do about it")
    models: list[str] | None = Field(description="the models that it lists, where it does")


class ConnectionTestResults(BaseModel):
    """Every provider that was asked."""

    ok: bool = Field(description="whether all of them answered as they should")
    tested_at: datetime = Field(description="when (UTC)")
    results: list[ConnectionTestResult]


class CommercialModel(BaseModel):
    """A listed model of a vendor."""

    id: str = Field(description="what to ask for", examples=["openai/gpt-4o-mini"])
    name: str = Field(examples=["gpt-4o-mini"])
    provider: str = Field(examples=["openai"])
    capabilities: list[str] = Field(examples=[["chat", "stream", "tools"]])
    context_length: int | None
    max_output_tokens: int | None


class CommercialModels(BaseModel):
    """The vendors' models, by provider and name."""

    models: list[CommercialModel]
    total: int
    limit: int
    offset: int


class Commerce:
    """The vendors as the log knows them; `views` are to be followed."""

    def __init__(self, ca_file: str | None = None) -> None:
        self._providers = TableView(ProviderChanged)
        self._targets = TableView(TargetChanged)
        self._ca_file = ca_file

    @property
    def views(self) -> list[TableView[Any]]:
        """The views that this is made of."""
        return [self._providers, self._targets]

    async def test(self, name: str | None) -> list[Probe]:
        """Ask one provider, or all of them. Raises NotFound for an unknown one."""
        found = [one for one in self._enabled() if name in {None, one.name}]
        if name is not None and not found:
            known = ", ".join(one.name for one in self._enabled()) or "none"
            raise NotFound(f"no provider is called '{name}'", action=f"There are: {known}.")
        pool = Pool(ca_file=self._ca_file)
        upstream, room = Upstream(pool), asyncio.Semaphore(_AT_ONCE)

        async def one(provider: ProviderChanged) -> Probe:
            async with room:
                return await probe(upstream, provider, self._model_of(provider.name))

        try:
            return await asyncio.gather(*(one(provider) for provider in found))
        finally:
            pool.close()

    def models(self) -> list[TargetChanged]:
        """Return the listed models of vendors that take part."""
        names = {provider.name for provider in self._enabled()}
        listed = [one for one in self._targets.entries.values() if one.enabled]
        found = [one for one in listed if one.provider in names]
        return sorted(found, key=lambda one: (one.provider, one.model))

    def _enabled(self) -> list[ProviderChanged]:
        known = sorted(self._providers.entries.values(), key=lambda one: one.name)
        return [one for one in known if one.enabled and one.name != LOCAL_PROVIDER]

    def _model_of(self, provider: str) -> str | None:
        chats = [
            one.model
            for one in self._targets.entries.values()
            if one.provider == provider and "chat" in one.capabilities
        ]
        return min(chats, default=None)


def commercial_router(commerce: Commerce) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["providers"])

    async def test(
        provider: Annotated[str | None, Query(description="one of them; all without it")] = None,
    ) -> ConnectionTestResults:
        probes = await commerce.test(provider)
        results = [
            ConnectionTestResult(
                provider=one.provider,
                ok=one.ok,
                latency_ms=one.latency_ms,
                error_code=one.error_code,
                error=one.error,
                action=one.action,
                models=one.models,
            )
            for one in probes
        ]
        every = all(one.ok for one in probes)
        return ConnectionTestResults(ok=every, tested_at=datetime.now(UTC), results=results)

    async def models(
        provider: Annotated[str | None, Query(description="of one provider")] = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="at most so many")] = 100,
        offset: Annotated[int, Query(ge=0, le=LONG_MAX, description="after so many")] = 0,
    ) -> CommercialModels:
        found = [one for one in commerce.models() if provider in {None, one.provider}]
        page = [
            CommercialModel(
                id=f"{one.provider}/{one.model}",
                name=one.model,
                provider=one.provider,
                capabilities=one.capabilities,
                context_length=one.context_length,
                max_output_tokens=one.max_output_tokens,
            )
            for one in found[offset : offset + limit]
        ]
        return CommercialModels(models=page, total=len(found), limit=limit, offset=offset)

    for path in TEST_PATHS:
        answers: dict[int | str, dict[str, Any]] = {404: ANSWERS[404]}
        router.get(path, summary="Ask every vendor, with its key", responses=answers)(test)
    for path in MODELS_PATHS:
        router.get(path, summary="Listed models of the vendors")(models)
    return router
