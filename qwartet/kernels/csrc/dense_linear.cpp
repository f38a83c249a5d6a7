#include "dense_linear.h"

#include <cstring>

#include "simd.h"
#include "thread_pool.h"

namespace qw {
namespace {

constexpr int PAIRS = 32;            // bf16 values in a vector
constexpr int64_t ROWS_OF_TASK = 64;
constexpr int64_t PREFETCH = 1024;   // values ahead

// sums[r][t] of ROWS rows and TOKENS tokens over the whole vectors of K, then the rest of a row from a padded copy.
template <int ROWS, int TOKENS>
void multiply_tile(const DenseWeight& weight, int64_t row, const uint16_t* x, int64_t stride, float (*sums)[DENSE_TOKENS]) {
    F32 acc[ROWS][TOKENS];
    for (auto& of_row : acc)
        for (auto& sum : of_row) sum = set_f32(0);
    const uint16_t* w = weight.rows + row * weight.num_inputs;
    const int64_t num_inputs = weight.num_inputs, whole = num_inputs / PAIRS * PAIRS;
    for (int64_t k = 0; k < whole; k += PAIRS) {
        Bf16 values[ROWS];
        for (int r = 0; r < ROWS; r++) {
            values[r] = load_bf16_pairs(w + r * num_inputs + k);
            if (TOKENS == 1) prefetch(w + r * num_inputs + k + PREFETCH);
        }
        for (int t = 0; t < TOKENS; t++) {
            Bf16 token = load_bf16_pairs(x + t * stride + k);
            for (int r = 0; r < ROWS; r++) acc[r][t] = dot_bf16(acc[r][t], values[r], token);
        }
    }
    for (int r = 0; r < ROWS && whole < num_inputs; r++) {
        uint16_t rest[PAIRS] = {};
        std::memcpy(rest, w + r * num_inputs + whole, 2 * (num_inputs - whole));
        for (int t = 0; t < TOKENS; t++)
            acc[r][t] = dot_bf16(acc[r][t], load_bf16_pairs(rest), load_bf16_pairs(x + t * stride + whole));
    }
    for (int r = 0; r < ROWS; r++)
        for (int t = 0; t < TOKENS; t++) sums[r][t] = reduce_add(acc[r][t]);
}

template <int ROWS>
void multiply_rows(const DenseWeight& weight, int64_t row, const uint16_t* x, int64_t stride, int num_tokens,
                   float (*sums)[DENSE_TOKENS]) {
    static_assert(DENSE_TOKENS == 2 || DENSE_TOKENS == 6);
    switch (num_tokens) {
        case 1: return multiply_tile<ROWS, 1>(weight, row, x, stride, sums);
        case 2: return multiply_tile<ROWS, 2>(weight, row, x, stride, sums);
        case 3: return multiply_tile<ROWS, DENSE_TOKENS == 6 ? 3 : 1>(weight, row, x, stride, sums);
        case 4: return multiply_tile<ROWS, DENSE_TOKENS == 6 ? 4 : 1>(weight, row, x, stride, sums);
        case 5: return multiply_tile<ROWS, DENSE_TOKENS == 6 ? 5 : 1>(weight, row, x, stride, sums);
        default: return multiply_tile<ROWS, DENSE_TOKENS>(weight, row, x, stride, sums);
    }
}

void store(const Output& y, int64_t token, int64_t output, float value) {
    const int64_t at = token * y.stride + output;
    if (y.is_float) {
        static_cast<float*>(y.data)[at] = value;
        return;
    }
    uint16_t rounded[16], base[16] = {};
    store_bf16(rounded, set_f32(value));
    if (y.residual) {
        base[0] = y.residual[at];
        store_bf16(rounded, add(load_bf16(base), load_bf16(rounded)));
    }
    static_cast<uint16_t*>(y.data)[at] = rounded[0];
}

}  // namespace

const uint16_t* padded_tokens(const uint16_t* x, int64_t num_tokens, int64_t num_inputs, int64_t stride,
                              int64_t* padded_stride) {
    // An odd number of cache lines: rows a power of two apart would all fall into the same few places of the cache.
    *padded_stride = ((num_inputs + PAIRS - 1) / PAIRS | 1) * PAIRS;
    auto* copy = static_cast<uint16_t*>(scratch(Scratch::activations, num_tokens * *padded_stride * 2));
    for (int64_t t = 0; t < num_tokens; t++) {
        std::memcpy(copy + t * *padded_stride, x + t * stride, 2 * num_inputs);
        std::memset(copy + t * *padded_stride + num_inputs, 0, 2 * (*padded_stride - num_inputs));
    }
    return copy;
}

float dense_output(const DenseWeight& weight, int64_t output, const uint16_t* padded_x) {
    float sum[1][DENSE_TOKENS];
    multiply_tile<1, 1>(weight, output, padded_x, 0, sum);
    return weight.bias ? sum[0][0] + weight.bias[output] : sum[0][0];
}

void dense_linear(const DenseWeight& weight, const uint16_t* x, int64_t num_tokens, int64_t stride, const Output& y) {
    int64_t padded_stride;
    const uint16_t* tokens = padded_tokens(x, num_tokens, weight.num_inputs, stride, &padded_stride);
    parallel_for((weight.num_outputs + ROWS_OF_TASK - 1) / ROWS_OF_TASK, [&](int64_t task) {
        const int64_t begin = task * ROWS_OF_TASK;
        const int64_t end = begin + ROWS_OF_TASK < weight.num_outputs ? begin + ROWS_OF_TASK : weight.num_outputs;
        float sums[DENSE_ROWS][DENSE_TOKENS];
        for (int64_t t = 0; t < num_tokens; t += DENSE_TOKENS) {
            const int count = int(num_tokens - t < DENSE_TOKENS ? num_tokens - t : DENSE_TOKENS);
            for (int64_t row = begin; row < end;) {
                const int rows = end - row >= DENSE_ROWS ? DENSE_ROWS : 1;
                (rows == 1 ? multiply_rows<1> : multiply_rows<DENSE_ROWS>)(weight, row, tokens + t * padded_stride,
                                                                          padded_stride, count, sums);
                for (int r = 0; r < rows; r++)
                    for (int i = 0; i < count; i++)
                        store(y, t + i, row + r, weight.bias ? sums[r][i] + weight.bias[row + r] : sums[r][i]);
                row += rows;
            }
        }
    });
}

}  // namespace qw
