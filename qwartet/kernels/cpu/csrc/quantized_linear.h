// The packed weight of a quantised linear, and the product with activations panel by panel.
//
//   y[m, n] = sum over k of s[u, n] (q[k, n] - z[u, n]) x[m, k] + bias[n]            u = k / unit
//
// Memory: panels of 64 outputs one after another; in a panel the units along K; a unit is
//
//   4 bits   unit / 8 rows of 256 bytes   row j, byte 64 t + 4 n + b:  q[8 j + 2 b] low nibble, q[8 j + 2 b + 1] high
//   8 bits   unit / 4 rows of 256 bytes   row j, byte 64 t + 4 n + b:  q[4 j + b]         for output 64 p + 16 t + n
//   scales   64 x fp16
//   zeros    64 x uint8, only where has_zeros; else the zero is 8 (4 bits) or 128 (8 bits)
//
// The 4-bit rows are the unchanged words of the GPTQ file (8 inputs of one output in an int32): packing only gathers
// the 64 words of a panel. One 64-byte load is 128 weights, two dot instructions and three to unpack them.
#pragma once
#include <cstdint>

#include "activations.h"
#include "low_rank.h"

namespace qw {

constexpr int PANEL = 64;  // outputs

struct PackedWeight {
    const uint8_t* panels;
    const float* bias;     // [N rounded up to 64] or null
    const int32_t* order;  // [K] act-order: the index in x of the k-th packed input, or null
    int64_t num_inputs;    // K
    int64_t num_outputs;   // N
    int32_t bits;          // 4 or 8
    int32_t unit;          // 32, 64 or 128 inputs
    int32_t has_zeros;

    int64_t num_panels() const { return (num_outputs + PANEL - 1) / PANEL; }
    int64_t num_units() const { return (num_inputs + GROUP - 1) / GROUP * (GROUP / unit); }
    int64_t codes_bytes() const { return int64_t(unit) * PANEL * bits / 8; }
    int64_t unit_bytes() const { return codes_bytes() + 2 * PANEL + (has_zeros ? PANEL : 0); }
    int64_t panel_bytes() const { return num_units() * unit_bytes(); }
};

enum class Store : int32_t {
    BF16,        // y[m, n] = round(sum + bias)
    FLOAT,       // the same, not rounded
    ADD_ROUNDED  // y[m, n] += round(sum + bias), y in fp32: the residual stream
};

// The destination of results.
struct Output {
    void* data;  // bf16 or fp32, rows `stride` elements apart
    int64_t stride;
    Store how;
};

void quantized_linear(const PackedWeight& weight, const Activations& x, const Output& y, const LowProducts& added = {});

// h[m, n] = up[m, n] * silu(gate[m, n]) in bf16; both weights have the same shape and read the same activations.
void quantized_swiglu(const PackedWeight& up, const PackedWeight& gate, const Activations& x, uint16_t* h, int64_t stride,
                      const LowProducts& added_to_up, const LowProducts& added_to_gate);

// Scratch memory of a thread that multiplies `num_tokens` tokens by `count` weights at once.
int64_t sums_bytes(int64_t num_tokens, int count);

}  // namespace qw
