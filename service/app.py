"""The application: routes, errors and the page around one service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service import page
from service.app_state import Service
from service.http.idempotency import HEADER, REPLAYED
from service.http.middleware import AccessLogMiddleware, AuthMiddleware, CommonMiddleware
from service.http.openapi import describe
from service.http.prefer_header import APPLIED, PREFER
from service.http.problems import install
from service.inference.request_context import TIMEOUT_HEADER
from service.lifespan import open_service, run_service
from service.routes import ROUTES
from service.settings import Settings
from vitascope.version import installed_version

ALLOWED_HEADERS = ("Content-Type", "X-Request-ID", "Authorization", "X-API-Key", "Last-Event-ID")
"""Of requests that pages of other origins may send."""


def create_app(settings: Settings, service: Service | None = None) -> FastAPI:
    """The application; it opens a service by ``settings`` when it starts, or takes over the one given.

    Starting raises BundleError and StorageError. Models are loaded in the background; `/readyz` tells when the
    default is.
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
        openapi_url=None,  # a route of ours, which declares its permission
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
    )
    app.openapi = describe(app)  # type: ignore[method-assign]
    # Not by include_router, whose nested routes are matched twice and have no path of their own.
    app.router.routes.extend([*ROUTES, *page.router.routes])
    install(app)
    app.add_middleware(AuthMiddleware, settings=settings)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
            allow_headers=[*ALLOWED_HEADERS, TIMEOUT_HEADER, HEADER, PREFER],
            expose_headers=[
                "Location",
                "X-Request-ID",
                "Retry-After",
                "RateLimit",
                "RateLimit-Policy",
                REPLAYED,
                APPLIED,
            ],
        )
    app.add_middleware(AccessLogMiddleware)
    app.add_middleware(CommonMiddleware, settings=settings)
    return app
