"""Reading frames of video, animations and still pictures by time in seconds."""
