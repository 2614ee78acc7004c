"""``python -m service``: the service with settings from the environment (``VITASCOPE_…``)."""

from service.run import main

if __name__ == "__main__":
    raise SystemExit(main())
