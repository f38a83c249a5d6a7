// The most probable token without reading the whole head: an 8-bit head finds the candidates, the bf16 rows decide.
//
//   |w . x - w' . x'|  <=  |w - w'| |x| + |w'| |x - x'| + rounding        (Cauchy-Schwarz; norms are Euclidean)
//
// with w' the 8-bit row, x' the rounded activations and `rounding` a bound on the loss of the fp32 sums on both sides.
// A row whose upper bound is below another row's lower bound cannot win; all others are scored exactly.
#pragma once
#include <cstdint>

#include "dense_linear.h"
#include "quantized_linear.h"

namespace qw {

struct Head {
    PackedWeight packed;       // 8 bits, unit 128
    const float* error_norms;  // [N] >= |w - w'|
    const float* row_norms;    // [N] >= |w| and |w'|
    DenseWeight exact;
};

// token_ids[m] = the first n < num_valid with the largest value of dense_linear(exact), or -1 where x[m] is not finite;
// num_candidates[m] = how many rows were scored exactly.
void head_argmax(const Head& head, const uint16_t* x, int64_t num_tokens, int64_t stride, int64_t num_valid,
                 int64_t* token_ids, int64_t* num_candidates);

// Scratch memory of the rough scores.
int64_t candidates_bytes(int64_t num_tokens, int64_t num_rows);

}  // namespace qw
