"""The API over HTTP, in one process with its model; and the files of a batch. Needs the extra `server`."""
