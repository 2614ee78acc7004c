"""``python -m tests.service.impatient``: the service, which tries a job that met a fault again at once."""

from __future__ import annotations

from service import run, worker

if __name__ == "__main__":
    worker.FAULT_SECONDS = 0.2
    raise SystemExit(run.main())
