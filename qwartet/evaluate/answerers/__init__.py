"""What answers the questions: a model in this process, or a server with OpenAI's API."""
