"""Upper bound of one request's decoding speed: every token reads all weights and the whole KV cache once.

    tokens/s <= bandwidth / (bytes of weights read + context * bytes of a cached token)

Decoding one request is bound by memory bandwidth on every device (a few operations for each byte read), so a good
implementation approaches this bound; qwartet bench latency prints how close it comes.
"""

from __future__ import annotations

from qwartet.planning.memory_plan import NetworkMemory, cache_bytes_per_token


def read_bytes(network: NetworkMemory, kind: str, context: int) -> int:
    """Bytes that one decoded token reads with `context` tokens in a KV cache of `kind`.

    Of the embedding only one row is read; of the head only the 8-bit one where there is one.
    """
    weights = network.weights
    copy = weights["8-bit copy of the head"]
    read = weights["linears"] + weights["norms and biases"] + (copy or network.head_bytes)
    return read + context * cache_bytes_per_token(network.config, kind)


def most_tokens_per_s(
    network: NetworkMemory, kind: str, context: int, bandwidth: float, num_parallel: int = 1
) -> float:
    """Upper bound of the decoding speed; `num_parallel` devices read at the same time, `bandwidth` bytes/s each."""
    return bandwidth * num_parallel / read_bytes(network, kind, context)
