"""Text that videos show on screen: reading it from frames, and the spans in which it is shown."""
