"""Tour of the service: a search, a caption score and a question over HTTP, and commands to go on with."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from vitascope.cli import ask, score
from vitascope.cli.options import DEFAULT_COLLECTION
from vitascope.cli.output import print_results
from vitascope.client import Client

SENTENCE = "a red square moves left"
FILE = "red-square-moves-left"
CAPTIONS = ("a red square moves left", "a red square moves right", "a green circle grows")
QUESTION = "what color is the square?"
RESULTS, RERANK = 3, 12


def tour(client: Client, console: Console) -> None:
    """Send the requests and print the responses.

    Raises:
        VitascopeError: A request failed.
    """
    videos = list(client.iter_videos(DEFAULT_COLLECTION))
    _heading(console, "search", f'"{SENTENCE}" among {len(videos)} videos')
    page = client.search(DEFAULT_COLLECTION, SENTENCE, limit=RESULTS, rerank=RERANK)
    print_results(page["results"], console)

    video = next(v for v in videos if v["title"] == FILE)
    _heading(console, "score", f"three captions for {FILE}.mp4")
    score.show({**client.score(CAPTIONS, collection=DEFAULT_COLLECTION, video_id=video["id"])}, console)

    _heading(console, "ask", f'{FILE}.mp4 "{QUESTION}"')
    ask.show({**client.ask(QUESTION, collection=DEFAULT_COLLECTION, video_id=video["id"], top=3)}, console)

    console.print("\n[bold]yours[/bold]  ask it something yourself:")
    console.print(f'  .venv/bin/vitascope search "a star and a circle" --server {client.url}', soft_wrap=True)
    console.print(f"  {_curl(client.url, {'text': 'a star and a circle'})}", soft_wrap=True, markup=False)


def _heading(console: Console, command: str, text: str) -> None:
    console.print(f"\n[bold]{command}[/bold]  {text}", markup=True)


def _curl(url: str, body: dict[str, Any]) -> str:
    fields = ", ".join(f'"{name}": "{value}"' for name, value in body.items())
    return f"curl -s {url}/v1/collections/{DEFAULT_COLLECTION}/search --json '{{{fields}}}'"
