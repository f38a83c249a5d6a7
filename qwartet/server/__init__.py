"""OpenAI's API over the engine: bodies in, responses out. Needs the extra `server`."""
