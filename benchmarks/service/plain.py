"""The peer that everybody has at hand: a FastAPI handler around the same model, without queue or batches.

python -m benchmarks.service.plain BUNDLE PORT THREADS
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from vitascope.model import Model


class Texts(BaseModel):
    """What it is asked."""

    input: list[str]


def plain_app(model: Model) -> FastAPI:
    """An application with one route; FastAPI runs it in its pool of 40 threads."""
    app = FastAPI()

    @app.post("/v1/embeddings")
    def embed(body: Texts) -> list[list[float]]:
        vectors: list[list[float]] = model.embed_text(body.input).tolist()
        return vectors

    return app


if __name__ == "__main__":
    bundle, port, threads = sys.argv[1:]
    opened = Model.open(bundle, threads=int(threads))
    opened.warm_up()
    uvicorn.run(plain_app(opened), host="127.0.0.1", port=int(port), log_level="warning")
