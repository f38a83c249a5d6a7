// y = x W^T + b for a bf16 weight in the checkpoint's layout: rows of K values, not repacked.
#pragma once
#include <cstdint>

#include "low_rank.h"
#include "quantized_linear.h"
#include "simd.h"

namespace qw {

struct DenseWeight {
    const uint16_t* rows;  // bf16 [N, K]
    const uint16_t* bias;  // bf16 [N] or null
    int64_t num_inputs;
    int64_t num_outputs;
};

// x: bf16 [M, K], rows `stride` apart. Sums run in fp32, lane by lane along K: the same bits for every M.
void dense_linear(const DenseWeight& weight, const uint16_t* x, int64_t num_tokens, int64_t stride, const Output& y,
                  const LowProducts& added = {});

// One output for one token, bit-identical to dense_linear. x must be one row of padded_tokens.
float dense_output(const DenseWeight& weight, int64_t output, const uint16_t* padded_x);

// sums[r][t], without bias, of 1 or DENSE_ROWS rows and at most DENSE_TOKENS padded tokens: the same bits as alone.
void dense_tile(const DenseWeight& weight, int64_t row, int rows, const uint16_t* padded_x, int64_t stride, int num_tokens,
                float (*sums)[DENSE_TOKENS]);

// A copy of x whose rows are padded with zeros to whole vectors; sets `padded_stride`, in elements.
const uint16_t* padded_tokens(const uint16_t* x, int64_t num_tokens, int64_t num_inputs, int64_t stride,
                              int64_t* padded_stride);

// Scratch memory of that copy.
int64_t padded_bytes(int64_t num_tokens, int64_t num_inputs);

}  // namespace qw
