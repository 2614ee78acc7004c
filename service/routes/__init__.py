"""The routes of the API."""

from service.routes import (
    collections,
    embeddings,
    entailment,
    groundings,
    health,
    jobs,
    keys,
    media,
    models,
    operations,
    scores_answers,
    search,
    transcriptions,
    videos,
    webhooks,
)

# Requests are matched in this order: first the routes that most requests go to.
ROUTES = [
    route
    for module in (
        *(embeddings, search, scores_answers, entailment, groundings, videos, media),
        *(collections, jobs, operations, models, health, keys, webhooks, transcriptions),
    )
    for route in module.router.routes
]
