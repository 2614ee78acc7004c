"""What Prometheus reads."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.app_state import AppStateDep
from service.http.auth import requires
from service.http.parsing import StrictRoute

router = APIRouter(include_in_schema=False, route_class=StrictRoute)


@router.get("/metrics")
@requires("admin", all_collections=True, public_if="public_metrics")
async def metrics(service: AppStateDep) -> Response:
    """All metrics in Prometheus's text format."""
    return Response(service.observer.metrics.to_text(), media_type="text/plain; version=0.0.4; charset=utf-8")
