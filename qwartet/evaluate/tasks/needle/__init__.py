"""The needle in a haystack: whether a model finds one sentence in a long text, by length and by depth."""
