"""A checkpoint's chat template: parsed by jinja2, evaluated here within limits, its text traced to whoever wrote it."""
