"""Routes of webhooks and their deliveries."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from index.pagination import paginate
from service.app_state import AppStateDep
from service.errors import WebhooksOff
from service.http.auth import requires
from service.http.openapi import errors
from service.http.parsing import StrictRoute, page_limit, parse_cursor
from service.schemas import webhooks as schemas
from service.webhooks.dispatcher import Dispatcher
from service.webhooks.store import DeliveryState, Endpoint, WebhookStore

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=StrictRoute)


async def _dispatcher(service: AppStateDep) -> Dispatcher:
    if service.webhooks is None:
        raise WebhooksOff("webhooks: 'off'; VITASCOPE_WEBHOOKS=on was expected")
    return service.webhooks


async def _store(dispatcher: Annotated[Dispatcher, Depends(_dispatcher)]) -> WebhookStore:
    return dispatcher.store


Webhooks = Annotated[Dispatcher, Depends(_dispatcher)]
Store = Annotated[WebhookStore, Depends(_store)]


@router.post("", status_code=201, summary="Create a webhook", responses=errors(403, 409, 422, 507))
@requires("admin", all_collections=True)
async def create_webhook(
    body: schemas.NewWebhook, service: AppStateDep, dispatcher: Webhooks, response: Response
) -> schemas.CreatedWebhook:
    """Send a message to a URL for each job event of these types, from now on. Only this response, and that of a
    rotation, contains the secret.
    """
    endpoint = await service.io_pool.run(_create, dispatcher, body)
    response.headers["Location"] = f"/v1/webhooks/{endpoint.id}"
    return _with_secret(endpoint, response)


@router.get("", summary="List webhooks", responses=errors(409, 507))
@requires("admin", all_collections=True)
async def list_webhooks(service: AppStateDep, store: Store) -> schemas.Webhooks:
    """List all webhooks, without their secrets."""
    endpoints = await service.io_pool.run(store.endpoints)
    return schemas.Webhooks(webhooks=[schemas.Webhook(**_fields(endpoint)) for endpoint in endpoints])


@router.get("/{webhook_id}", summary="Get a webhook", responses=errors(404, 409, 507))
@requires("admin", all_collections=True)
async def get_webhook(webhook_id: str, service: AppStateDep, store: Store) -> schemas.Webhook:
    """Return a webhook, without its secret."""
    return schemas.Webhook(**_fields(await service.io_pool.run(store.endpoint, webhook_id)))


@router.delete("/{webhook_id}", status_code=204, summary="Delete a webhook", responses=errors(404, 409, 507))
@requires("admin", all_collections=True)
async def delete_webhook(webhook_id: str, service: AppStateDep, store: Store) -> None:
    """Delete a webhook with its pending deliveries."""
    await service.io_pool.run(store.delete, webhook_id)


@router.post("/{webhook_id}/rotate", summary="Replace a webhook's secret", responses=errors(404, 409, 507))
@requires("admin", all_collections=True)
async def rotate_webhook(
    webhook_id: str, service: AppStateDep, store: Store, response: Response
) -> schemas.CreatedWebhook:
    """Replace the secret. For 24 hours messages are also signed with the previous one."""
    return _with_secret(await service.io_pool.run(store.rotate, webhook_id), response)


@router.get("/{webhook_id}/deliveries", summary="List deliveries", responses=errors(400, 404, 409, 422, 507))
@requires("admin", all_collections=True)
async def list_deliveries(
    webhook_id: str,
    service: AppStateDep,
    store: Store,
    state: Annotated[DeliveryState | None, Query(description="only deliveries in this state")] = None,
    limit: Annotated[int | None, Query(ge=1, description="entries on a page")] = None,
    cursor: Annotated[str | None, Query(max_length=200, description="next_cursor of the page before")] = None,
) -> schemas.Deliveries:
    """Return a page of deliveries, newest first. Finished ones are kept for 30 days, at most 1000."""
    size = page_limit(limit, service.settings)
    rows = await service.io_pool.run(store.deliveries, webhook_id, size + 1, parse_cursor(cursor), state)
    page, next_cursor = paginate(rows, size, lambda delivery: delivery.number)
    views = [
        schemas.Delivery(
            id=each.id,
            type=each.type,
            state=each.state,
            attempts=each.attempts,
            status=each.status,
            error=each.error,
            created_at=each.created_at,
            last_at=each.last_at,
            next_at=each.next_at,
        )
        for each in page
    ]
    return schemas.Deliveries(deliveries=views, next_cursor=next_cursor)


def _create(dispatcher: Dispatcher, body: schemas.NewWebhook) -> Endpoint:
    dispatcher.check_url(body.url)
    return dispatcher.store.create(body.url, body.events)


def _with_secret(endpoint: Endpoint, response: Response) -> schemas.CreatedWebhook:
    response.headers["Cache-Control"] = "no-store"
    return schemas.CreatedWebhook(**_fields(endpoint), secret=endpoint.secret)


def _fields(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "events": list(endpoint.events),
        "created_at": endpoint.created_at,
        "previous_secret_until": endpoint.previous_until,
    }
