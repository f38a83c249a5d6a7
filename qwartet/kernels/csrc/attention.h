// Causal attention over the paged KV cache of one layer, for any mixture of prefill, chunks and decode.
//
//   out[t, h] = sum over the keys j <= position of t of softmax_j(q[t, h] . k[j, h'] / sqrt(D)) v[j, h']
//
// Cache: [num_blocks, num_kv_heads, block_size, head_dim], bf16, or int8 with a scale for each head of each token.
// The keys of a request are taken in chunks of 512 that begin at multiples of 512: within a chunk the softmax is
// taken whole, and chunks are merged in ascending order (online softmax: Milakov and Gimelshein 2018; split over the
// sequence: Dao et al. 2023, Flash-Decoding). Neither depends on what else is in the batch, on how a prompt was cut
// into steps, or on the threads, so equal tokens give equal bits.
#pragma once
#include <cstdint>

namespace qw {

struct CacheLayer {
    void* keys;           // bf16 or int8
    void* values;
    float* key_scales;    // fp32 [num_blocks, num_kv_heads, block_size]; null for bf16
    float* value_scales;
    int64_t num_blocks;
    int32_t num_kv_heads;
    int32_t block_size;   // a multiple of 16
    int32_t head_dim;     // a multiple of 32, at most 256
    int32_t is_int8;

    // Index of a token's first element, and of its scale times head_dim.
    int64_t at(int64_t block, int64_t head, int64_t offset) const {
        return ((block * num_kv_heads + head) * block_size + offset) * head_dim;
    }
};

struct AttentionBatch {
    const int64_t* block_table;  // [num_requests, max_blocks]
    const int64_t* seq_lens;     // [num_requests] keys, the new ones included
    const int64_t* cu_seqlens;   // [num_requests + 1] rows of each request in query and out
    int64_t num_requests;
    int64_t max_blocks;
};

// query and out: bf16 [T, num_heads, D], tokens `query_stride` and `out_stride` elements apart.
void paged_attention(const uint16_t* query, int64_t query_stride, int32_t num_heads, const CacheLayer& cache,
                     const AttentionBatch& batch, uint16_t* out, int64_t out_stride);

}  // namespace qw
