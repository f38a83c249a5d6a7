"""A model card, computed: figures from our own commands beside the published ones, as Markdown and as a page."""
