"""Tour of the service: searches, caption scores and questions over HTTP, and commands to go on with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli import ask, score
from vitascope.cli.options import DEFAULT_COLLECTION
from vitascope.cli.output import print_results
from vitascope.client import Client

RESULTS = 3


@dataclass(frozen=True, slots=True)
class Stop:
    """Requests of the tour: searches, then captions and a question about the video with a title."""

    searches: tuple[str, ...]
    title: str
    captions: tuple[str, ...]
    question: str


NATURAL = Stop(
    ("a fox in the snow", "someone plays the piano", "a car at night"),
    "a horse gallops over a meadow",
    ("a horse runs over a meadow", "a dog lies on a sofa", "two people eat dinner"),
    "is there grass?",
)
DRAWN = Stop(
    ("a red square moves left",),
    "red-square-moves-left",
    ("a red square moves left", "a red square moves right", "a green circle grows"),
    "what color is the square?",
)


def tour(client: Client, console: Console) -> None:
    """Send the requests and print the responses.

    Raises:
        VitascopeError: A request failed.
    """
    videos = {video["title"]: video["id"] for video in client.iter_videos(DEFAULT_COLLECTION)}
    stops = [stop for stop in (NATURAL, DRAWN) if stop.title in videos]
    for stop in stops:
        for text in stop.searches:
            _heading(console, "search", f'"{text}" among {len(videos)} videos')
            page = client.search(DEFAULT_COLLECTION, text, limit=RESULTS)
            print_results(page["results"], console)

        video = videos[stop.title]
        _heading(console, "score", f'{len(stop.captions)} captions for "{stop.title}"')
        score.show({**client.score(stop.captions, collection=DEFAULT_COLLECTION, video_id=video)}, console)

        _heading(console, "ask", f'"{stop.title}": {stop.question}')
        ask.show({**client.ask(stop.question, collection=DEFAULT_COLLECTION, video_id=video, top=3)}, console)

    text = "a man plays the guitar" if NATURAL in stops else "a star spins"
    console.print("\n[bold]yours[/bold]  ask it something yourself:")
    console.print(f'  .venv/bin/vitascope search "{text}" --server {client.url}', soft_wrap=True)
    console.print(f"  {_curl(client.url, {'text': text})}", soft_wrap=True, markup=False)


def _heading(console: Console, command: str, text: str) -> None:
    console.print(f"\n[bold]{command}[/bold]  {escape(text)}")


def _curl(url: str, body: dict[str, Any]) -> str:
    fields = ", ".join(f'"{name}": "{value}"' for name, value in body.items())
    return f"curl -s {url}/v1/collections/{DEFAULT_COLLECTION}/search --json '{{{fields}}}'"
