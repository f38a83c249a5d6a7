"""Models on hubs and their local copies: pull, list, show, verify, rm."""
