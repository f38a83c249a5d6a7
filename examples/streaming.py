"""Stream text as it is generated. The generator returns the completion: finish reason, token ids, log-probabilities."""

import sys

from qwartet import LLM

llm = LLM(*sys.argv[1:2])


def show(question: str) -> None:
    stream = llm.chat_stream(question, temperature=0, logprobs=1)
    while True:
        try:
            print(next(stream), end="", flush=True)
        except StopIteration as end:
            completion = end.value
            break
    print(f"\n({len(completion.token_ids)} tokens, finished by {completion.finish_reason!r})")


show("What is 23 + 45?")
show("你好")
