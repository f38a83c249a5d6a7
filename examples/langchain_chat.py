"""Use LangChain with a Qwartet server: pip install langchain-openai."""

from langchain_openai import ChatOpenAI
from our_server import running_server

with running_server() as url:
    model = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="qwartet-demo", temperature=0)
    print(model.invoke("What is 23 + 45?").content)
    for chunk in model.stream([("system", "Be brief."), ("user", "你好")]):
        print(chunk.content, end="", flush=True)
    print()
