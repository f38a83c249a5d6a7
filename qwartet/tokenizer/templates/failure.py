"""Why a template could not be evaluated; the caller adds where, and makes an error for users of it."""

from __future__ import annotations


class TemplateFailure(Exception):
    """What a template does wrong, or asks for that is not allowed."""


class Rejection(Exception):
    """A template's own words on why it does not take a conversation, from raise_exception."""
