"""The FastAPI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service import page
from service.app_state import AppState
from service.http.idempotency import HEADER, REPLAYED
from service.http.middleware import AccessLogMiddleware, AuthMiddleware, CommonMiddleware, LoadSheddingMiddleware
from service.http.openapi import openapi_of
from service.http.parsing import PREFER, PREFERENCE_APPLIED
from service.http.problems import add_exception_handlers
from service.inference.request_context import TIMEOUT_HEADER
from service.lifespan import open_service, run_service
from service.routes import ROUTES
from service.settings import Settings
from vitascope.version import installed_version

CORS_HEADERS = ("Content-Type", "X-Request-ID", "Authorization", "X-API-Key", "Last-Event-ID")


def create_app(settings: Settings, service: AppState | None = None) -> FastAPI:
    """Create the application.

    Args:
        settings: Settings of the service.
        service: An open service. None: ``open_service`` is called at startup, and its errors are raised there. Models
            are loaded in the background; ``/readyz`` returns 200 when they are ready.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = await asyncio.to_thread(open_service, settings) if service is None else service
        async with run_service(app.state.service):
            yield

    app = FastAPI(
        title="Vitascope",
        version=installed_version("0"),
        lifespan=lifespan,
        openapi_url=None,  # served by service.page, which declares its permission
        docs_url=None,  # that page loads scripts from another host
        redoc_url=None,
    )
    app.openapi = openapi_of(app)  # type: ignore[method-assign]
    # include_router would nest the routes: each request would match twice, and the middleware could not see endpoints.
    app.router.routes.extend([*ROUTES, *page.router.routes])
    add_exception_handlers(app)
    # From the innermost to the outermost. Errors of the first two are logged, and pages of other origins can read them.
    app.add_middleware(AuthMiddleware, settings=settings)
    app.add_middleware(CommonMiddleware, settings=settings)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
            allow_headers=[*CORS_HEADERS, TIMEOUT_HEADER, HEADER, PREFER],
            expose_headers=[
                "Location",
                "ETag",
                "Content-Range",
                "X-Request-ID",
                "Retry-After",
                "RateLimit",
                "RateLimit-Policy",
                REPLAYED,
                PREFERENCE_APPLIED,
            ],
        )
    app.add_middleware(AccessLogMiddleware)
    app.add_middleware(LoadSheddingMiddleware)
    return app
