"""Liveness and readiness, also served on the health port."""

from __future__ import annotations

from fastapi import APIRouter

from service.app_state import AppStateDep
from service.http.auth import requires
from service.http.openapi import errors
from service.http.parsing import StrictRoute
from service.schemas.base import Health, Readiness

router = APIRouter(tags=["health"], route_class=StrictRoute)


@router.head("/livez", include_in_schema=False)
@router.get("/livez", summary="Liveness", responses=errors(503))
@requires(None)
async def livez(service: AppStateDep) -> Health:
    """200 while requests are processed. On the health port (`VITASCOPE_HEALTH_PORT`) 503 if none could be processed for
    a minute.
    """
    service.check_loop()
    return Health(status="ok")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", summary="Readiness", responses=errors(503))
@requires(None)
async def readyz(service: AppStateDep) -> Readiness:
    """200 once the default model is loaded, media files can be decoded and jobs run. 503 before that, if loading
    failed, if the server that runs the model does not answer, and during shutdown. `failed_models` counts the other
    models that could not be loaded. Recognisers may still be loading, or have failed: searches do not need them.
    """
    service.check_not_stopping()
    service.check_ready()
    await service.check_engine()
    service.check_decoding()
    recognizers = {recognizer.kind: recognizer.state for recognizer in service.recognizers.all()}
    return Readiness(status="ok", failed_models=service.models.failed_count(), recognizers=recognizers)
