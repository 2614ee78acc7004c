"""From a query to ranked clips, events and videos."""
