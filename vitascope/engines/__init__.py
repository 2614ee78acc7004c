"""Engines that run graphs."""
