// Activations in 16-bit fixed point, as one or two int8 values each: what the quantised linear multiplies.
//
//   x[m, k] ~ scale[g, m] * (high[k] + low[k] / 256)      g = k / 128; high in -127..127, low in -128..127
//
//   scale = max |x| of the group / 127                    one for each token and group of 128 inputs
//
// With `low` an element is off by at most 1/512 of a step (1/65,000 of the group's largest); without, by half a step.
// ALWAYS computes every `low`. WHERE_NEEDED does so for a group whose largest value stands out: half a step there is
// large beside the other values. The choice looks at one token's group alone, so it is the same in every batch.
#pragma once
#include <cstdint>

namespace qw {

constexpr int GROUP = 128;  // inputs that share a scale

enum class Low : int32_t { ALWAYS = 0, WHERE_NEEDED = 1 };

constexpr int64_t CHUNK_TOKENS = 512;  // tokens that a weight is multiplied by in one go: their sums stay in level-2 cache

// One of the two int8 values of a token's inputs in one unit, and what its products count for.
struct Part {
    const int8_t* values;  // [unit]
    float scale;
    int32_t sum;           // of the values, for the weights' zero
    int32_t token;         // within its chunk
};

// Groups first, so that the part of every token that meets one unit of weights is one piece of memory.
struct Activations {
    int64_t num_tokens;  // M
    int64_t num_groups;  // G = ceil(K / 128); what lies beyond K is 0
    int unit;            // inputs that share a weight scale: 32, 64 or 128
    int8_t* high;        // [G, M, 128]; for 4-bit weights each 8 stand in the order 0 2 4 6 1 3 5 7
    int8_t* low;         // [G, M, 128]
    float* scales;       // [G, M]
    int32_t* high_sums;  // [G * 128 / unit, M] sums over the inputs of a unit, for the weights' zero
    int32_t* low_sums;
    uint8_t* has_low;    // [G, M]
    Part* parts;         // [chunks, units, 2 * CHUNK_TOKENS] the `high` of all tokens of the chunk, then every `low` there is
    int32_t* num_parts;  // [chunks, units]

    int64_t at(int64_t group, int64_t token) const { return group * num_tokens + token; }
    int64_t num_units() const { return num_groups * (GROUP / unit); }
    int64_t num_chunks() const { return (num_tokens + CHUNK_TOKENS - 1) / CHUNK_TOKENS; }
    int64_t chunk_size(int64_t chunk) const {
        const int64_t left = num_tokens - chunk * CHUNK_TOKENS;
        return left < CHUNK_TOKENS ? left : CHUNK_TOKENS;
    }
    int64_t parts_of_unit() const { return 2 * chunk_size(0); }
};

// x: bf16 [M, K] with rows `stride` apart; `order`: where the k-th input of the weight stands in x, or null.
// The result lies in scratch memory until the next call.
Activations quantize_activations(const uint16_t* x, int64_t num_tokens, int64_t num_inputs, int64_t stride,
                                 const int32_t* order, int bits, int unit, Low low);

}  // namespace qw
