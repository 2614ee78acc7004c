"""The model in use."""

from __future__ import annotations

from fastapi import APIRouter

from service.openapi import errors
from service.schemas.models import FrameStream, ModelInfo, Models
from service.state import Service, ServiceState

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models", summary="List models", responses=errors())
async def list_models(service: ServiceState) -> Models:
    """What the model in use can do, what it was trained on, how well it does, and under which terms."""
    return await service.light.run(_models, service)


def _models(service: Service) -> Models:
    bundle = service.model.bundle
    stated = bundle.manifest
    card = (bundle.folder / stated.model_card).read_text("utf-8", "replace")
    return Models(
        models=[
            ModelInfo(
                name=stated.name,
                version=stated.version,
                fingerprint=bundle.fingerprint,
                architecture=stated.architecture,
                tasks=list(stated.tasks),
                streams=[FrameStream(**stream.model_dump()) for stream in stated.streams],
                vector_width=stated.vector_width,
                text_length=stated.text_length,
                answers=len(bundle.answers),
                precision=stated.precision,
                licence=stated.licence,
                training_data=stated.training_data,
                metrics=stated.metrics,
                model_card=card,
            )
        ]
    )
