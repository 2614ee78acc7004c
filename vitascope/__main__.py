"""`python -m vitascope`: the same as the `vitascope` command."""

from vitascope.command import main

if __name__ == "__main__":
    raise SystemExit(main())
