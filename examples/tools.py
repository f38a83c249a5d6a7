"""Call functions with the OpenAI client: the model requests a tool, the program runs it and sends the result back."""

import json

from openai import OpenAI
from our_server import running_server

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tells the weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def get_weather(city: str) -> str:
    return f"sunny in {city}"


with running_server() as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    asked = client.chat.completions.create(model="qwartet-demo", messages=messages, tools=TOOLS, temperature=0)
    message = asked.choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    for call in message.tool_calls or ():
        arguments = json.loads(call.function.arguments)
        print(f"{call.function.name}({arguments})")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": get_weather(**arguments)})
    answer = client.chat.completions.create(model="qwartet-demo", messages=messages, tools=TOOLS, temperature=0)
    print(answer.choices[0].message.content)
