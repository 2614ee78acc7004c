"""Webhooks: signed messages to endpoints when jobs have ended."""
