"""Speech recognition: what is said in the sound of media files, with times."""
