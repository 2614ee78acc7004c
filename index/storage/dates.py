"""Points in time as people write them: ISO 8601, UTC where no offset is stated."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from vitascope.errors import FilterError


def span_of(label: str, text: str) -> tuple[float, float]:
    """(first, end) in Unix seconds of what ``text`` names: a day ends where the next begins, a time of day at itself.

    Raises FilterError that begins with ``label``.
    """
    try:
        try:
            day = date.fromisoformat(text)
        except ValueError:
            moment = datetime.fromisoformat(text)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            return seconds, seconds
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        return midnight.timestamp(), (midnight + timedelta(days=1)).timestamp()
    except (ValueError, OverflowError) as error:
        raise FilterError(
            f"{label}: {text[:80]!r}; Unix seconds, a day (2026-03-31) or a time (2026-03-31T18:30:00+02:00) "
            "was expected"
        ) from error
