"""Run a server with an API key under a path of a reverse proxy, as with nginx or Caddy in production.

Here the proxy is a few lines of Starlette, so that the example runs anywhere; deploy/README.md shows how to configure
nginx. The server needs to know the path (--root-path) and the host name that clients use (--allowed-hosts).
"""

import threading

import httpx
import uvicorn
from openai import OpenAI
from our_server import free_port, running_server
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

KEY = "an-example-key-of-some-length"


def proxy(upstream: str) -> Starlette:
    """Forwards /qwen/... to the server, and streams the answers."""
    client = httpx.AsyncClient(base_url=upstream, timeout=600)

    async def forward(request: Request) -> StreamingResponse:
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        outgoing = client.build_request(
            request.method, request.url.path.removeprefix("/qwen"), headers=headers, content=await request.body()
        )
        answer = await client.send(outgoing, stream=True)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, dict(answer.headers))

    return Starlette(routes=[Route("/qwen/{path:path}", forward, methods=["GET", "POST"])])


with running_server("--api-key", KEY, "--root-path", "/qwen", "--allowed-hosts", "127.0.0.1") as upstream:
    port = free_port()
    front = uvicorn.Server(uvicorn.Config(proxy(upstream), port=port, log_level="warning"))
    thread = threading.Thread(target=front.run, daemon=True)
    thread.start()
    while not front.started:
        pass
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/qwen/v1", api_key=KEY)
    stream = client.chat.completions.create(
        model="qwartet-demo", messages=[{"role": "user", "content": "What is 23 + 45?"}], temperature=0, stream=True
    )
    print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
    client.close()
    front.should_exit = True
    thread.join()
