"""OpenAI's API without HTTP: a body that was read from JSON in, a response object or its pieces out."""
