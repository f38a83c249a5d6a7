#include "gptq.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "product.h"
#include "simd.h"
#include "thread_pool.h"

namespace qw {
namespace {

constexpr int64_t BLOCK = 128;  // of H: factored at once, and inverted directly

// H = M M^T for a block of H, by columns from the last to the first: `t` is its transpose, the lower triangle row by
// row, and becomes M^T.
bool factor_block(float (*t)[BLOCK], int64_t size) {
    for (int64_t j = size - 1; j >= 0; j--) {
        if (!(t[j][j] > 0) || !std::isfinite(t[j][j])) return false;
        const float root = std::sqrt(t[j][j]);
        t[j][j] = root;
        for (int64_t i = 0; i < j; i++) t[j][i] /= root;
        for (int64_t l = 0; l < j; l++) {
            const float factor = t[j][l];
            for (int64_t i = 0; i <= l; i++) t[l][i] -= factor * t[j][i];
        }
    }
    return true;
}

// The inverse of a lower triangle, row by row; what is right of the diagonal becomes 0.
void invert_block(const float (*t)[BLOCK], int64_t size, float (*inverse)[BLOCK]) {
    for (int64_t i = 0; i < size; i++) {
        float* row = inverse[i];
        std::fill(row, row + size, 0.0f);
        for (int64_t l = 0; l < i; l++)
            for (int64_t k = 0; k <= l; k++) row[k] -= t[i][l] * inverse[l][k];
        for (int64_t k = 0; k < i; k++) row[k] /= t[i][i];
        row[i] = 1 / t[i][i];
    }
}

struct Working {
    float block[BLOCK][BLOCK], inverse[BLOCK][BLOCK];
};

// H = M M^T, M upper triangular. In `h`, the diagonal blocks of M are already inverted.
bool factor(float* h, int64_t size, float* panel, Working& work) {
    for (int64_t start = (size - 1) / BLOCK * BLOCK; start >= 0; start -= BLOCK) {
        const int64_t width = std::min(BLOCK, size - start);
        float* diagonal = h + start * size + start;
        for (int64_t i = 0; i < width; i++)
            for (int64_t j = i; j < width; j++) work.block[j][i] = diagonal[i * size + j];
        if (!factor_block(work.block, width)) return false;
        invert_block(work.block, width, work.inverse);
        for (int64_t i = 0; i < width; i++)
            for (int64_t j = i; j < width; j++) diagonal[i * size + j] = work.inverse[j][i];
        if (start == 0) break;
        // M above this block = H (M of the block)^-T; then H of what is left -= M M^T.
        const Matrix above{h + start, size, 1}, inverse{work.inverse[0], BLOCK, 1}, m{panel, BLOCK, 1};
        product(above, inverse, start, width, width, 1, 0, panel, BLOCK);
        for (int64_t i = 0; i < start; i++) std::memcpy(h + i * size + start, panel + i * BLOCK, 4 * width);
        product(m, m.transposed(), start, start, width, -1, 1, h, size, Triangle::RESULT);
    }
    return true;
}

// The inverse of M, block column by block column: above an inverted block, -(inverse so far) M (inverse of the block).
void invert(float* h, int64_t size, float* panel, Working& work) {
    for (int64_t start = BLOCK; start < size; start += BLOCK) {
        const int64_t width = std::min(BLOCK, size - start);
        for (int64_t i = 0; i < width; i++)
            for (int64_t j = 0; j < width; j++)
                work.inverse[i][j] = j < i ? 0 : h[(start + i) * size + start + j];
        const Matrix above{h + start, size, 1}, inverse{work.inverse[0], BLOCK, 1}, m{panel, BLOCK, 1};
        product(above, inverse, start, width, width, -1, 0, panel, BLOCK);
        product({h, size, 1}, m, start, width, start, 1, 0, h + start, size, Triangle::FACTOR);
    }
}

// The rows of one vector of outputs.
void round_vector(float* w, int64_t rows, int64_t stride_w, const float* factor, int64_t stride, F32 scale, F32 zero,
                  F32 most, uint8_t* codes, int64_t stride_codes, int64_t count) {
    for (int64_t i = 0; i < rows; i++) {
        const float* from = factor + i * stride;
        float* row = w + i * stride_w;
        const F32 value = load_f32(row);
        const F32 code = min(max(add(round(div(value, scale)), zero), set_f32(0)), most);
        const F32 error = div(sub(value, mul(scale, sub(code, zero))), set_f32(from[i]));
        store_f32(row, error);
        float whole[16];
        store_f32(whole, code);
        for (int64_t n = 0; n < count; n++) codes[i * stride_codes + n] = uint8_t(whole[n]);
        for (int64_t j = i + 1; j < rows; j++) {
            float* below = w + j * stride_w;
            store_f32(below, sub(load_f32(below), mul(set_f32(from[j]), error)));
        }
    }
}

}  // namespace

bool inverse_factor(float* h, int64_t size) {
    std::vector<float> panel(size * BLOCK);
    std::vector<Working> work(1);
    if (!factor(h, size, panel.data(), work[0])) return false;
    invert(h, size, panel.data(), work[0]);
    return true;
}

void round_rows(float* w, int64_t rows, int64_t num_outputs, const float* factor, int64_t stride, const Grid& grid,
                uint8_t* codes) {
    const F32 most = set_f32(float((1 << grid.bits) - 1));
    parallel_for((num_outputs + 15) / 16, [&](int64_t task) {
        const int64_t n = 16 * task, count = std::min<int64_t>(16, num_outputs - n);
        auto* own = static_cast<float*>(thread_scratch(4 * 16 * (rows + 2)));
        // A copy in which the rows are neighbours, and whose last vector is whole.
        float *scale = own + 16 * rows, *zero = scale + 16;
        for (int64_t i = 0; i < rows; i++) {
            std::memset(own + 16 * i, 0, 64);
            std::memcpy(own + 16 * i, w + i * num_outputs + n, 4 * count);
        }
        std::fill(scale, scale + 16, 1.0f), std::fill(zero, zero + 16, 0.0f);
        std::memcpy(scale, grid.scale + n, 4 * count), std::memcpy(zero, grid.zero + n, 4 * count);
        round_vector(own, rows, 16, factor, stride, load_f32(scale), load_f32(zero), most, codes + n, num_outputs, count);
        for (int64_t i = 0; i < rows; i++) std::memcpy(w + i * num_outputs + n, own + 16 * i, 4 * count);
    });
}

void search_scale(const float* w, int64_t rows, int64_t num_outputs, const float* weight, const float* shrinks,
                  int64_t num_shrinks, int32_t bits, float* scale, const float* zero) {
    const F32 most = set_f32(float((1 << bits) - 1));
    parallel_for((num_outputs + 15) / 16, [&](int64_t task) {
        const int64_t n = 16 * task, count = std::min<int64_t>(16, num_outputs - n);
        auto* own = static_cast<float*>(thread_scratch(4 * 16 * (rows + 2)));
        float *scales = own + 16 * rows, *zeros = scales + 16;
        for (int64_t i = 0; i < rows; i++) {
            std::memset(own + 16 * i, 0, 64);
            std::memcpy(own + 16 * i, w + i * num_outputs + n, 4 * count);
        }
        std::fill(scales, scales + 16, 1.0f), std::fill(zeros, zeros + 16, 0.0f);
        std::memcpy(scales, scale + n, 4 * count), std::memcpy(zeros, zero + n, 4 * count);
        const F32 whole = load_f32(scales), zero16 = load_f32(zeros);
        float best[16], chosen[16];
        for (int64_t s = 0; s < num_shrinks; s++) {
            const F32 tried = mul(whole, set_f32(shrinks[s]));
            F32 sum = set_f32(0);
            for (int64_t i = 0; i < rows; i++) {
                const F32 value = load_f32(own + 16 * i);
                const F32 code = min(max(add(round(div(value, tried)), zero16), set_f32(0)), most);
                const F32 error = sub(value, mul(tried, sub(code, zero16)));
                sum = add(sum, mul(mul(error, error), set_f32(weight[i])));
            }
            float sums[16], values[16];
            store_f32(sums, sum), store_f32(values, tried);
            for (int64_t l = 0; l < 16; l++)
                if (s == 0 || sums[l] < best[l]) best[l] = sums[l], chosen[l] = values[l];
        }
        std::memcpy(scale + n, chosen, 4 * count);
    });
}

}  // namespace qw
