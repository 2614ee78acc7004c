"""Telling others that jobs have ended: endpoints, messages to them, and delivering those."""
