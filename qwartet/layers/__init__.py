"""The parts of the network, and the two types that travel through them: ForwardBatch and KVCache."""
