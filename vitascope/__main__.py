"""Entry point of `python -m vitascope`, the `vitascope` command."""

from vitascope.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
