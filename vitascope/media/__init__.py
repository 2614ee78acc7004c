"""Media files: probing, decoding and sampling of video, animations, pictures and subtitles."""
