"""Whether the service is alive, and whether it can work."""

from __future__ import annotations

from fastapi import APIRouter

from service.app_state import ServiceState
from service.http.auth import requires
from service.http.openapi import errors
from service.http.parsing import StrictRoute
from service.schemas.base import Health, Readiness

router = APIRouter(tags=["health"], route_class=StrictRoute)


@router.get("/livez", summary="Is the service alive", responses=errors(503))
@requires(None)
async def livez(service: ServiceState) -> Health:
    """200 as long as requests are taken up; at the health port (`VITASCOPE_HEALTH_PORT`) 503 once none could be for a
    minute.
    """
    service.check_loop()
    return Health(status="ok")


@router.get("/readyz", summary="Can the service work", responses=errors(503))
@requires(None)
async def readyz(service: ServiceState) -> Readiness:
    """200 once the default model is loaded, files can be decoded and jobs are being run; 503 before that, when it
    failed or the server that runs it does not answer, and once the service is stopping. Other models that could not be
    loaded are counted.
    """
    service.check_staying()
    service.check_ready()
    await service.check_engine()
    service.check_decoding()
    return Readiness(status="ok", failed_models=service.models.failed())
