"""Use LlamaIndex with a Qwartet server: pip install llama-index-llms-openai-like."""

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from our_server import running_server

with running_server() as url:
    model = OpenAILike(
        api_base=f"{url}/v1",
        api_key="none",
        model="qwartet-demo",
        is_chat_model=True,
        temperature=0,
        context_window=2048,
    )
    print(model.chat([ChatMessage(role="user", content="What is 23 + 45?")]).message.content)
