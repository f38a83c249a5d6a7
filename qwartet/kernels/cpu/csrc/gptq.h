// The steps of the GPTQ solver (qwartet/quantize/solver.py): weights are [K, N], one row for each input.
#pragma once
#include <cstdint>

namespace qw {

// The upper triangle of the symmetric H [K, K] is replaced by the upper triangular F with F^T F = H^-1; the rest is not
// touched. False, with a triangle of no meaning, where H is not positive definite in fp32.
bool inverse_factor(float* h, int64_t size);

// Rounds `rows` rows of w [rows, N] one after the other, each to the grid of `scale` and `zero` [N], and moves the error
// of each into the rows below; `factor` is the diagonal block of F that belongs to these rows. w becomes the errors,
// each divided by its diagonal element; codes: uint8 [rows, N].
struct Grid {
    const float* scale;
    const float* zero;
    int32_t bits;
};
void round_rows(float* w, int64_t rows, int64_t num_outputs, const float* factor, int64_t stride, const Grid& grid,
                uint8_t* codes);

// Chooses for every output of a group w [rows, N] the factor that the scale is multiplied by: the first of `shrinks`
// with the smallest sum over the rows of weight[row] * (error of rounding)^2. scale [N] is multiplied by it.
void search_scale(const float* w, int64_t rows, int64_t num_outputs, const float* weight, const float* shrinks,
                  int64_t num_shrinks, int32_t bits, float* scale, const float* zero);

}  // namespace qw
