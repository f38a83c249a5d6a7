// The operations between the matrix products of a layer, each in one pass over the rows.
#pragma once
#include <cstdint>

#include "cache_layer.h"

namespace qw {

// x[t] = table[ids[t]] in fp32: the start of the residual stream.
void embed(const int32_t* ids, const uint16_t* table, int64_t num_tokens, int64_t size, float* x);

// y = round(x / sqrt(mean(x^2) + eps) * weight) in bf16. x: fp32, the residual stream.
void rms_norm(const float* x, const uint16_t* weight, float eps, int64_t num_tokens, int64_t size, uint16_t* y);

// h = up * silu(gate), computed in fp32.
void silu_mul(const uint16_t* up, const uint16_t* gate, int64_t count, uint16_t* h);

// The positions of the new tokens, and the tables that rotate their heads (layers/rotary.py).
struct Rotation {
    const float* cos;             // [rows, rotary_dim / 2]
    const float* sin;
    const int32_t* rope_index;    // [T] row of the tables
    const float* query_scale;     // [T] LogN, or null
    const int32_t* slot_mapping;  // [T] block * block_size + offset in the cache
    int32_t rotary_dim;           // a multiple of 32
};

// The norms of single heads that come before the rotation; without weights there are none.
struct HeadNorms {
    const uint16_t* query;  // bf16 [D]: the weight for all query heads, or null
    const uint16_t* key;    // null where `query` is
    float eps;
};

// qkv: bf16 [T, (num_heads + 2 num_kv_heads) * D]. Norms and rotates the queries in place; does the same to the keys and
// writes them, and the values, to the cache.
void rotate_and_store(uint16_t* qkv, int64_t num_tokens, int32_t num_heads, const HeadNorms& norms, const Rotation& rotation,
                      const CacheLayer& cache);

}  // namespace qw
