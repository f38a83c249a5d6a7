// The gradient of a linear's input: what training needs of a frozen weight.
//
//   dx[m, k] = sum over n of dy[m, n] w[n, k]                quantised: w[n, k] = s[u, n] (q[k, n] - z[u, n])
//
// A thread takes 128 inputs, dequantises blocks of 128 inputs x 64 outputs into its L1 cache, and multiplies each by all
// tokens of a chunk: the dequantised matrix never exists. Sums are fp32. From fp32 to fp32 no value is rounded before the
// result; otherwise weights and dy are rounded to bf16 where the processor multiplies bf16 faster.
#pragma once
#include <cstdint>

#include "dense_linear.h"
#include "quantized_linear.h"

namespace qw {

// dy: bf16 or fp32 [M, N], contiguous. dx: BF16 or FLOAT.
struct Gradient {
    const void* data;
    bool is_float;
};

void quantized_linear_gradient(const PackedWeight& weight, const Gradient& dy, int64_t num_tokens, const Output& dx);

// The same for a dense weight [N, K].
void dense_linear_gradient(const DenseWeight& weight, const Gradient& dy, int64_t num_tokens, const Output& dx);

// y = x W^T for many tokens, without the bias; faster than dense_linear, with other sums.
void dense_linear_many(const DenseWeight& weight, const Gradient& x, int64_t num_tokens, const Output& y);

}  // namespace qw
