// Causal attention over the paged KV cache of one layer, for any mixture of prefill, chunks and decode.
//
//   out[t, h] = sum over the keys j <= position of t of softmax_j(q[t, h] . k[j, h'] / sqrt(D)) v[j, h']
//
// The cache is any of the three kinds of cache_layer.h. With codes, the queries are transformed as the keys were, and
// the sum of the values is transformed back at the end.
// The keys of a request are taken in chunks of 512 that begin at multiples of 512: within a chunk the softmax is
// taken whole, and chunks are merged in ascending order (online softmax: Milakov and Gimelshein 2018; split over the
// sequence: Dao et al. 2023, Flash-Decoding). Neither depends on what else is in the batch, on how a prompt was cut
// into steps, or on the threads, so equal tokens give equal bits.
#pragma once
#include <cstdint>

#include "cache_layer.h"

namespace qw {

struct AttentionBatch {
    const int32_t* block_table;  // [num_requests, max_blocks]
    const int32_t* seq_lens;     // [num_requests] keys, the new ones included
    const int32_t* cu_seqlens;   // [num_requests + 1] rows of each request in query and out
    int64_t num_requests;
    int64_t max_blocks;
};

// query and out: bf16 [T, num_heads, D], tokens `query_stride` and `out_stride` elements apart.
void paged_attention(const uint16_t* query, int64_t query_stride, int32_t num_heads, const CacheLayer& cache,
                     const AttentionBatch& batch, uint16_t* out, int64_t out_stride);

// The most scratch memory of a step whose requests have up to `context` keys: `attention`, and that of a thread.
int64_t attention_bytes(int64_t context, int threads);
int64_t attention_bytes_of_thread();

}  // namespace qw
