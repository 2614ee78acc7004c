"""The commands of this room: `vitascope index` and `vitascope search`."""

from __future__ import annotations

from index import index_command
from index.search_command import add_search_arguments, run_search, show_search

COMMANDS = {
    "index": (index_command.add_arguments, index_command.run, index_command.show),
    "search": (add_search_arguments, run_search, show_search),
}
