"""Segmentation of videos into clips, and their subtitles."""
