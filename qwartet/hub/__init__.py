"""What lies on a hub, and what of it lies on this machine: pull, list, show, verify, rm."""
