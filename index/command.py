"""The commands of this room: `vitascope index` and `vitascope search`."""

from __future__ import annotations

from index.commands import index as index_command
from index.commands.search import add_search_arguments, run_search, show_search

COMMANDS = {
    "index": (index_command.add_arguments, index_command.run, index_command.show),
    "search": (add_search_arguments, run_search, show_search),
}
