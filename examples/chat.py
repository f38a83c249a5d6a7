"""A conversation: the history goes back in with each question, and a system prompt sets the tone."""

import sys

from qwartet import LLM

llm = LLM(*sys.argv[1:2])  # a checkpoint directory or hub id; the bundled model without an argument

answer, history = llm.chat("My name is Rosa.", temperature=0)
print(answer)
answer, history = llm.chat("What is my name?", history=history, temperature=0)
print(answer)

answer, _ = llm.chat("你好呀", system="请用二次元可爱语气和我说话", temperature=0)
print(answer)
