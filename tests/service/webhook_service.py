"""``python -m tests.service.webhook_service PORT FILE``: the service with webhooks that go to 127.0.0.1:PORT.

While there is a FILE it does not look for ended jobs.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from service import run
from service.lifespan import open_service
from service.webhooks import dispatcher
from tests.service.webhook_receiver import client_to

if __name__ == "__main__":
    blind, notice = Path(sys.argv[2]), dispatcher.Dispatcher._queue_messages
    dispatcher.Dispatcher._queue_messages = lambda self: None if blind.exists() else notice(self)  # type: ignore[method-assign]
    dispatcher.POLL_SECONDS, dispatcher.BASE_DELAY, dispatcher.MAX_DELAY = 0.05, 0.2, 0.4
    run.open_service = partial(open_service, webhook_client=client_to(int(sys.argv[1])))  # type: ignore[assignment]
    raise SystemExit(run.main())
