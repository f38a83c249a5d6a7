// Activations in 16-bit fixed point, as one or two int8 values each: what the quantised linear multiplies.
//
//   x[m, k] ~ scale[g, m] * (high[k] + low[k] / 256)      g = k / 128; high in -127..127, low in -128..127
//
//   scale = max |x| of the group / 127                    one for each token and group of 128 inputs
//
// Where the processor has no byte product for 8-bit codes (PLANES_OF_BYTES in simd_*.h), the codes are multiplied by
// both halves at once, as one int16 for each value: 256 high + low, each four in the order 0 2 1 3.
//
// With `low` an element's error is at most 1/512 of a step (1/65,000 of the group's largest); without, half a step.
// ALWAYS computes every `low`. WHERE_NEEDED does so for a group with an outlier, where half a step is large relative to
// the other values. The choice depends only on one token's group, so it is the same in every batch.
#pragma once
#include <cstdint>

namespace qw {

constexpr int GROUP = 128;  // inputs that share a scale

enum class Low : int32_t { ALWAYS = 0, WHERE_NEEDED = 1 };

constexpr int64_t CHUNK_TOKENS = 512;  // tokens that a weight is multiplied by at once: their sums stay in L2 cache

// The weight of one part's products: a part is the `high` or the `low` of one token in one group.
struct Part {
    float scale;
    int32_t sum;    // of the values multiplied by one unit of weights, for the weights' zero
    int32_t token;  // within its chunk
};

// All factors of one unit of weights are contiguous: the `high` of every token of a chunk, then every existing `low`.
struct Activations {
    int64_t num_tokens;  // M
    int64_t num_groups;  // G = ceil(K / 128); inputs beyond K are 0
    int unit;            // inputs that share a weight scale: 32, 64 or 128
    int value_bytes;     // 1: int8 `high` and `low` apart; 2: int16
    int8_t* values;      // [chunks, G, 2 * chunk_size(0), 128] int8, or half as many int16; for 4-bit weights each 8 stand in the order 0 2 4 6 1 3 5 7
    Part* parts;         // [chunks, units, 2 * chunk_size(0)]
    int32_t* num_parts;  // [chunks, G]
    float* scales;       // [G, M] of the `high`
    uint8_t* has_low;    // [G, M]: whether there is a part for the `low`

    int64_t num_units() const { return num_groups * (GROUP / unit); }
    int64_t num_chunks() const { return (num_tokens + CHUNK_TOKENS - 1) / CHUNK_TOKENS; }
    int64_t chunk_size(int64_t chunk) const {
        const int64_t left = num_tokens - chunk * CHUNK_TOKENS;
        return left < CHUNK_TOKENS ? left : CHUNK_TOKENS;
    }
    int64_t room() const { return 2 * chunk_size(0); }
    int64_t at(int64_t group, int64_t token) const { return group * num_tokens + token; }
    int8_t* values_of(int64_t chunk, int64_t group) const { return values + (chunk * num_groups + group) * room() * GROUP; }
    // out[128] = a token's group in the form for 8-bit weights; num_low: tokens before it in its chunk with a `low`.
    void read_rounded(int64_t token, int64_t group, int64_t num_low, double* out) const;
    Part* parts_of(int64_t chunk, int64_t unit_index) const { return parts + (chunk * num_units() + unit_index) * room(); }
};

// Scratch memory for M tokens of K inputs.
struct ActivationBytes {
    int64_t values, parts, sums;
};
ActivationBytes activation_bytes(int64_t num_tokens, int64_t num_inputs, int unit);

// x: bf16 [M, K] with rows `stride` apart; `order`: the index in x of the weight's k-th input, or null.
// The result stays in scratch memory until the next call.
Activations quantize_activations(const uint16_t* x, int64_t num_tokens, int64_t num_inputs, int64_t stride,
                                 const int32_t* order, int bits, int unit, Low low);

}  // namespace qw
