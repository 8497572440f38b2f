"""`/docs`: the administration API in a browser, every file from the installation, none from a CDN."""

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.openapi.utils import get_openapi

_PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Weir</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = b"""SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis], validatorUrl: null,
});
"""
_FILES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
PATHS = ("/docs", "/docs/start.js", *(f"/docs/{name}" for name in _FILES))
"""They hold nothing but the form of the API, so they need no key."""
_POLICY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
}


def docs_router() -> APIRouter:
    """The page and its files, which the package fastapi-offline carries."""
    router = APIRouter(include_in_schema=False)
    static = files("fastapi_offline") / "static"

    def serve(path: str, body: bytes, kind: str) -> None:
        @router.get(path)
        async def file() -> Response:
            return Response(body, media_type=kind, headers=_POLICY)

    serve("/docs", _PAGE, "text/html; charset=utf-8")
    serve("/docs/start.js", _START, "text/javascript; charset=utf-8")
    for name, kind in _FILES.items():
        serve(f"/docs/{name}", (static / name).read_bytes(), kind)
    return router


def tell_of_all(app: FastAPI) -> None:
    """Make the OpenAPI document tell of the whole surface, the gateway's paths too."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            from infra.openapi import complete  # every dialect: not for a start

            schema = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                routes=app.routes,
                separate_input_output_schemas=app.separate_input_output_schemas,
            )
            app.openapi_schema = complete(schema)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
