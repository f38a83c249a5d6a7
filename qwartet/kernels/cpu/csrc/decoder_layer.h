// One residual block of the network in one call:  h = x + attention(norm(x));  x' = h + mlp(norm(h)).
#pragma once
#include <cstdint>

#include "attention.h"
#include "dense_linear.h"
#include "elementwise.h"
#include "low_rank.h"
#include "quantized_linear.h"

namespace qw {

// A linear layer of either kind.
struct Linear {
    PackedWeight packed;
    DenseWeight dense;
    int32_t is_packed;
};

struct Layer {
    const uint16_t* attention_norm;  // bf16 [C]
    const uint16_t* mlp_norm;
    HeadNorms head_norms;
    Linear qkv, output, up, gate, down;
    float eps;
    int32_t num_heads;
    int64_t hidden_size;
    int64_t intermediate_size;
};

// y = linear(x), x bf16 [M, K]; y.how says whether the result replaces y or is added to it.
// `adapters`: [num_adapters] of this linear, or null.
void linear(const Linear& weight, const uint16_t* x, int64_t num_tokens, int64_t stride, Low low, const Output& y,
            const LowRank* adapters, const RowGroups& groups);

// x: fp32 [T, C], the residual stream, to which the block adds. Bit-identical to the separate operations.
void decoder_layer(const Layer& layer, float* x, int64_t num_tokens, const Rotation& rotation, const CacheLayer& cache,
                   const AttentionBatch& batch, Low low, const LayerAdapters& adapters, const RowGroups& groups);

// What determines the scratch memory of a step; `bits` is 0 for dense linears.
struct StepShape {
    int64_t hidden_size, intermediate_size, vocab_size;
    int64_t num_tokens, num_rows, context;  // tokens of the step, rows of logits, keys of the longest request
    int32_t num_heads, num_kv_heads, head_dim, bits, unit, act_order, has_packed_head, num_threads;
    int64_t adapter_rank;  // of the largest adapter; 0: none
};

// Bytes of all scratch buffers after such steps: those of the operations, and those of each thread.
struct StepBytes {
    int64_t shared, of_thread;
};
StepBytes step_bytes(const StepShape& shape);

}  // namespace qw
