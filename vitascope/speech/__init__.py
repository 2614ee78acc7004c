"""Speech recognition: transcripts of media files, with times."""
