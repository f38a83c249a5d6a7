// One layer of the paged KV cache, and how a head is written to it; the same as kernels/cache_layer.py.
//
//   [num_blocks, num_kv_heads, block_size, head_dim] keys, and as many values, each of
//
//   16 bits   bf16
//    8 bits   codes -127 .. 127, and a scale for each head of each token: x ~ scale * code
//    4 bits   codes -7 .. 7 in the same way
//
// where x is the head's Walsh-Hadamard transform (hadamard.h), and
//
//   code = round(x / step), step = max |x| / 127 or 7;   scale = x . x / x . code: the error is orthogonal to x
//
// Two 4-bit codes share a byte, each with 8 added. Every 32 codes c of a head are 16 bytes:
//
//   byte      0       1            15
//   bits 3-0  c0      c1     ...   c15         one AND, and a byte each
//   bits 7-4  c16     c17    ...   c31         one shift besides
//
// Unpacked, they are 32 bytes in order. 32 divides head_dim, so the heads of a block are unpacked in one run.
#pragma once
#include <cstdint>

namespace qw {

constexpr int MAX_HEAD_DIM = 256;

struct CacheLayer {
    void* keys;
    void* values;
    float* key_scales;    // fp32 [num_blocks, num_kv_heads, block_size]; null for bf16
    float* value_scales;
    int64_t num_blocks;
    int32_t num_kv_heads;
    int32_t block_size;   // a multiple of 16
    int32_t head_dim;     // a multiple of 32, at most MAX_HEAD_DIM
    int32_t bits;         // 16, 8 or 4

    // Index of a token's first value, and of its scale times head_dim.
    int64_t at(int64_t block, int64_t head, int64_t offset) const {
        return ((block * num_kv_heads + head) * block_size + offset) * head_dim;
    }
    // Bytes of a number of values.
    int64_t bytes(int64_t num_values) const { return num_values * bits / 8; }
};

// Writes a head x, bf16 [D], of the token in `slot`.
void store_key(const CacheLayer& cache, int64_t slot, int64_t head, const uint16_t* x);
void store_value(const CacheLayer& cache, int64_t slot, int64_t head, const uint16_t* x);

}  // namespace qw
