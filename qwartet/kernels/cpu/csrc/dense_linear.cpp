#include "dense_linear.h"

#include <cstring>

#include "simd.h"
#include "thread_pool.h"
#include "unroll.h"

namespace qw {
namespace {

constexpr int PAIRS = 32;            // bf16 values in a vector
constexpr int64_t ROWS_OF_TASK = PANEL;
constexpr int64_t PREFETCH = 1024;   // values ahead in each row
constexpr int64_t STREAMED_TOKENS = 12;  // up to this many, reading several rows at once costs a fifth of the bandwidth

// sums[r][t] of ROWS rows and TOKENS tokens over the whole vectors of K, then the rest of a row from a padded copy.
template <int ROWS, int TOKENS>
void multiply_tile(const DenseWeight& weight, int64_t row, const uint16_t* x, int64_t stride, float (*sums)[DENSE_TOKENS]) {
    F32 acc[ROWS][TOKENS];
    unroll<ROWS>([&](auto r) QW_INLINE { unroll<TOKENS>([&](auto t) QW_INLINE { acc[r][t] = set_f32(0); }); });
    const uint16_t* w = weight.rows + row * weight.num_inputs;
    const int64_t num_inputs = weight.num_inputs, whole = num_inputs / PAIRS * PAIRS;
    const int64_t ahead = num_inputs < PREFETCH ? num_inputs : PREFETCH;
    for (int64_t k = 0; k < whole; k += PAIRS) {
        // At the end of a row the next one in memory is already being read: prefetch the row after all of them.
        const uint16_t* next = w + k + ahead + (k + ahead < num_inputs ? 0 : (ROWS - 1) * num_inputs);
        Bf16 values[ROWS];
        unroll<ROWS>([&](auto r) QW_INLINE {
            values[r] = load_bf16_pairs(w + r * num_inputs + k);
            prefetch(next + r * num_inputs);
        });
        unroll<TOKENS>([&](auto t) QW_INLINE {
            Bf16 token = load_bf16_pairs(x + t * stride + k);
            unroll<ROWS>([&](auto r) QW_INLINE { acc[r][t] = dot_bf16(acc[r][t], values[r], token); });
        });
    }
    if (whole < num_inputs)
        unroll<ROWS>([&](auto r) QW_INLINE {
            uint16_t rest[PAIRS] = {};
            std::memcpy(rest, w + r * num_inputs + whole, 2 * (num_inputs - whole));
            unroll<TOKENS>([&](auto t) QW_INLINE {
                acc[r][t] = dot_bf16(acc[r][t], load_bf16_pairs(rest), load_bf16_pairs(x + t * stride + whole));
            });
        });
    unroll<ROWS>([&](auto r) QW_INLINE { unroll<TOKENS>([&](auto t) QW_INLINE { sums[r][t] = reduce_add(acc[r][t]); }); });
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

float with_bias(const DenseWeight& weight, int64_t output, float sum) {
    if (!weight.bias) return sum;
    const uint32_t bits = uint32_t(weight.bias[output]) << 16;
    float bias;
    std::memcpy(&bias, &bits, 4);
    return sum + bias;
}

void store(const Output& y, int64_t token, int64_t output, float value) {
    const int64_t at = token * y.stride + output;
    if (y.how == Store::FLOAT) {
        static_cast<float*>(y.data)[at] = value;
        return;
    }
    uint16_t rounded[16];
    float sum[16];
    store_bf16(rounded, set_f32(value));
    if (y.how == Store::BF16) {
        static_cast<uint16_t*>(y.data)[at] = rounded[0];
        return;
    }
    float* place = static_cast<float*>(y.data) + at;
    store_f32(sum, add(set_f32(*place), load_bf16(rounded)));
    *place = sum[0];
}

}  // namespace

namespace {

// An odd number of cache lines: rows a power of two apart would all map to the same few cache sets.
int64_t padded_size(int64_t num_inputs) { return ((num_inputs + PAIRS - 1) / PAIRS | 1) * PAIRS; }

}  // namespace

int64_t padded_bytes(int64_t num_tokens, int64_t num_inputs) { return num_tokens * padded_size(num_inputs) * 2; }

const uint16_t* padded_tokens(const uint16_t* x, int64_t num_tokens, int64_t num_inputs, int64_t stride,
                              int64_t* padded_stride) {
    *padded_stride = padded_size(num_inputs);
    auto* copy = static_cast<uint16_t*>(scratch(Scratch::activations, padded_bytes(num_tokens, num_inputs)));
    for (int64_t t = 0; t < num_tokens; t++) {
        std::memcpy(copy + t * *padded_stride, x + t * stride, 2 * num_inputs);
        std::memset(copy + t * *padded_stride + num_inputs, 0, 2 * (*padded_stride - num_inputs));
    }
    return copy;
}

float dense_output(const DenseWeight& weight, int64_t output, const uint16_t* padded_x) {
    float sum[1][DENSE_TOKENS];
    multiply_tile<1, 1>(weight, output, padded_x, 0, sum);
    return with_bias(weight, output, sum[0][0]);
}

void dense_tile(const DenseWeight& weight, int64_t row, int rows, const uint16_t* padded_x, int64_t stride, int num_tokens,
                float (*sums)[DENSE_TOKENS]) {
    (rows == 1 ? multiply_rows<1> : multiply_rows<DENSE_ROWS>)(weight, row, padded_x, stride, num_tokens, sums);
}

void dense_linear(const DenseWeight& weight, const uint16_t* x, int64_t num_tokens, int64_t stride, const Output& y,
                  const LowProducts& added) {
    int64_t padded_stride;
    const uint16_t* tokens = padded_tokens(x, num_tokens, weight.num_inputs, stride, &padded_stride);
    // `more`: what the adapters add to the rows of a task, [tokens from `token` on, 64]
    const auto tile = [&](int64_t row, int rows, int64_t token, const float* more) {
        const int count = int(num_tokens - token < DENSE_TOKENS ? num_tokens - token : DENSE_TOKENS);
        float sums[DENSE_ROWS][DENSE_TOKENS];
        dense_tile(weight, row, rows, tokens + token * padded_stride, padded_stride, count, sums);
        for (int r = 0; r < rows; r++)
            for (int t = 0; t < count; t++) {
                const float sum = sums[r][t] + more[t * ROWS_OF_TASK + (row + r) % ROWS_OF_TASK];
                store(y, token + t, row + r, with_bias(weight, row + r, sum));
            }
    };
    parallel_for((weight.num_outputs + ROWS_OF_TASK - 1) / ROWS_OF_TASK, [&](int64_t task) {
        const int64_t begin = task * ROWS_OF_TASK;
        const int64_t end = begin + ROWS_OF_TASK < weight.num_outputs ? begin + ROWS_OF_TASK : weight.num_outputs;
        if (num_tokens <= STREAMED_TOKENS) {  // memory-bound: one row after another, read once
            float more[STREAMED_TOKENS * ROWS_OF_TASK] = {};
            added.add(task, 0, num_tokens, more);
            for (int64_t row = begin; row < end; row++)
                for (int64_t token = 0; token < num_tokens; token += DENSE_TOKENS)
                    tile(row, 1, token, more + token * ROWS_OF_TASK);
        } else {  // compute-bound: several rows share the tokens in registers, all rows those in the cache
            for (int64_t token = 0; token < num_tokens; token += DENSE_TOKENS) {
                float more[DENSE_TOKENS * ROWS_OF_TASK] = {};
                added.add(task, token, DENSE_TOKENS, more);
                for (int64_t row = begin, rows; row < end; row += rows) {
                    rows = end - row >= DENSE_ROWS ? DENSE_ROWS : 1;
                    tile(row, int(rows), token, more);
                }
            }
        }
    });
}

}  // namespace qw
