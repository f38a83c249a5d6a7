"""The HTTP server: the API and the web page, in one process with the model. Needs the extra `server`."""
