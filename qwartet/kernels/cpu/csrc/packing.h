// GPTQ tensors, or a bf16 matrix, -> the panels of quantized_linear.h.
#pragma once
#include <cstdint>

#include "quantized_linear.h"

namespace qw {

// qweight: int32 [K * bits / 32, N]; scales: fp16 [num_groups, N]; zeros: uint8 [num_groups, N] or null.
// Packed input k is input weight.order[k] of the file (k itself without an order) and belongs to group k / group_size.
// Writes weight.num_panels() * weight.panel_bytes() bytes at `panels`.
void pack_gptq(const PackedWeight& weight, const int32_t* qweight, const uint16_t* scales, const uint8_t* zeros,
               int64_t num_groups, int64_t group_size, uint8_t* panels);

// A dense bf16 [N, K] matrix rounded to 8 bits in groups of 128: scale = max |w| / 127 as fp16, zero 128.
// error_norms[n] >= the Euclidean norm of row n minus its rounded form; row_norms[n] >= that of both of them.
void pack_dense(const PackedWeight& weight, const uint16_t* rows, uint8_t* panels, float* error_norms, float* row_norms);

}  // namespace qw
