#include "product.h"

#include <algorithm>
#include <cstring>

#include "simd.h"
#include "thread_pool.h"
#include "unroll.h"

namespace qw {
namespace {

constexpr int ROWS = PRODUCT_ROWS;  // of a tile of C
constexpr int COLUMNS = 16 * PRODUCT_VECTORS;
constexpr int64_t DEPTH = 512;  // products that are summed in registers; ROWS of A, 24 KB, stay in level 1
constexpr int64_t BLOCK_COLUMNS = 256 / COLUMNS * COLUMNS;  // of B, packed for one task: 512 KB, for level 2
constexpr int64_t BLOCK_ROWS = 2048 / ROWS * ROWS;          // of A at most, that go through one such block
constexpr int64_t CHUNK_ROWS = 2 * BLOCK_ROWS;              // of A, packed at once for all tasks: 8 MB
constexpr int64_t TASKS_OF_THREAD = 4;                      // at least, unless their blocks become too small
constexpr int64_t FEWEST_ROWS = 8 * ROWS;

int64_t pieces(int64_t size, int64_t piece) { return (size + piece - 1) / piece; }

// WIDTH neighbouring lines of a matrix, of which `count` exist: to[k][line] for k < depth, zero where there is none.
// `line` and `step` are the strides from line to line and from k to k + 1.
template <int WIDTH>
void pack_panel(const float* from, int64_t line, int64_t step, int64_t count, int64_t depth, float* to) {
    if (count < WIDTH) std::memset(to, 0, 4 * WIDTH * depth);
    if (line == 1 && count == WIDTH) {
        for (int64_t k = 0; k < depth; k++) std::memcpy(to + k * WIDTH, from + k * step, 4 * WIDTH);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        for (int64_t k = 0; k < depth; k++) to[k * WIDTH + i] = from[i * line + k * step];
}

// Of a packed panel of A whose first row meets the diagonal at k = `first`: zeros where k is less than the row.
void clear_below_diagonal(int64_t first, int64_t depth, float* panel) {
    for (int64_t row = 1; row < ROWS; row++)
        for (int64_t k = std::max<int64_t>(first, 0); k < std::min(first + row, depth); k++) panel[k * ROWS + row] = 0;
}

// A tile of C in registers: the sum over k of a[k][row] b[k][column], then C = beta C + alpha sum.
void multiply_tile(const float* a, const float* b, int64_t depth, float alpha, float beta, float* c, int64_t stride) {
    F32 acc[ROWS][PRODUCT_VECTORS];
    unroll<ROWS>([&](auto r) QW_INLINE {
        prefetch(c + r * stride);
        unroll<PRODUCT_VECTORS>([&](auto v) QW_INLINE { acc[r][v] = set_f32(0); });
    });
    for (int64_t k = 0; k < depth; k++, a += ROWS, b += COLUMNS) {
        F32 values[PRODUCT_VECTORS];
        unroll<PRODUCT_VECTORS>([&](auto v) QW_INLINE { values[v] = load_f32(b + 16 * v); });
        unroll<ROWS>([&](auto r) QW_INLINE {
            const F32 factor = set_f32(a[r]);
            unroll<PRODUCT_VECTORS>([&](auto v) QW_INLINE { acc[r][v] = fma(factor, values[v], acc[r][v]); });
        });
    }
    const F32 factor = set_f32(alpha), kept = set_f32(beta);
    unroll<ROWS>([&](auto r) QW_INLINE {
        unroll<PRODUCT_VECTORS>([&](auto v) QW_INLINE {
            float* place = c + r * stride + 16 * v;
            const F32 sum = mul(factor, acc[r][v]);
            store_f32(place, beta == 0 ? sum : fma(kept, load_f32(place), sum));
        });
    });
}

struct Problem {
    int64_t M, N;
    float alpha;
    float* c;
    int64_t stride;
    Triangle part;
};

// The tile at row i, column j: whole, or through a copy where it ends early or crosses the diagonal.
void compute_tile(const Problem& p, const float* a, const float* b, int64_t depth, float beta, int64_t i, int64_t j) {
    const int64_t rows = std::min<int64_t>(ROWS, p.M - i), columns = std::min<int64_t>(COLUMNS, p.N - j);
    const bool crosses = p.part == Triangle::RESULT && j < i + rows - 1;
    float* place = p.c + i * p.stride + j;
    if (rows == ROWS && columns == COLUMNS && !crosses) return multiply_tile(a, b, depth, p.alpha, beta, place, p.stride);
    alignas(64) float copy[ROWS * COLUMNS] = {};
    const auto first = [&](int64_t r) { return crosses ? std::clamp<int64_t>(i + r - j, 0, columns) : 0; };
    for (int64_t r = 0; r < rows && beta != 0; r++)
        std::memcpy(copy + r * COLUMNS + first(r), place + r * p.stride + first(r), 4 * (columns - first(r)));
    multiply_tile(a, b, depth, p.alpha, beta, copy, COLUMNS);
    for (int64_t r = 0; r < rows; r++)
        std::memcpy(place + r * p.stride + first(r), copy + r * COLUMNS + first(r), 4 * (columns - first(r)));
}

// Rows of a task, so that there are enough of them for all threads.
int64_t rows_of_task(int64_t rows, int64_t column_blocks) {
    int64_t share = std::min(BLOCK_ROWS, pieces(rows, ROWS) * ROWS);
    while (share > FEWEST_ROWS && pieces(rows, share) * column_blocks < TASKS_OF_THREAD * num_threads())
        share = pieces(share / 2, ROWS) * ROWS;
    return share;
}

}  // namespace

void product(const Matrix& a, const Matrix& b, int64_t M, int64_t N, int64_t K, float alpha, float beta, float* c,
             int64_t stride, Triangle part) {
    const Problem p{M, N, alpha, c, stride, part};
    const int64_t column_blocks = pieces(N, BLOCK_COLUMNS);
    for (int64_t m = 0; m < M; m += CHUNK_ROWS) {
        const int64_t chunk = std::min(CHUNK_ROWS, M - m), panels = pieces(chunk, ROWS);
        const int64_t share = rows_of_task(chunk, column_blocks), row_blocks = pieces(chunk, share);
        for (int64_t k = 0; k < K; k += DEPTH) {
            const int64_t depth = std::min(DEPTH, K - k);
            const bool is_zero = part == Triangle::FACTOR && k + depth <= m;  // all of A's rows begin further right
            if (is_zero && (k > 0 || beta == 1)) continue;
            auto* packed = static_cast<float*>(scratch(Scratch::product, 4 * panels * ROWS * depth));
            parallel_for(panels, [&](int64_t panel) {
                const int64_t i = m + panel * ROWS;
                float* to = packed + panel * ROWS * depth;
                pack_panel<ROWS>(a.data + i * a.row + k * a.column, a.row, a.column, std::min<int64_t>(ROWS, M - i), depth, to);
                if (part == Triangle::FACTOR) clear_below_diagonal(i - k, depth, to);
            });
            parallel_for(row_blocks * column_blocks, [&](int64_t task) {
                const int64_t begin = task % row_blocks * share, end = std::min(begin + share, chunk);
                const int64_t j = task / row_blocks * BLOCK_COLUMNS, columns = std::min(BLOCK_COLUMNS, N - j);
                if (part == Triangle::RESULT && j + columns <= m + begin) return;
                auto* own = static_cast<float*>(thread_scratch(4 * BLOCK_COLUMNS * depth));
                for (int64_t n = 0; n < columns; n += COLUMNS)
                    pack_panel<COLUMNS>(b.data + k * b.row + (j + n) * b.column, b.column, b.row,
                                        std::min<int64_t>(COLUMNS, columns - n), depth, own + n * depth);
                for (int64_t r = begin; r < end; r += ROWS) {
                    const int64_t i = m + r;
                    // Left of the diagonal of A: skipped up to the first row of the tile, zeros in the others.
                    const int64_t skipped = part == Triangle::FACTOR ? std::clamp<int64_t>(i - k, 0, depth) : 0;
                    for (int64_t n = 0; n < columns; n += COLUMNS) {
                        if (part == Triangle::RESULT && j + n + COLUMNS <= i) continue;
                        compute_tile(p, packed + r * depth + skipped * ROWS, own + n * depth + skipped * COLUMNS,
                                     depth - skipped, k == 0 ? beta : 1, i, j + n);
                    }
                }
            });
        }
    }
}

}  // namespace qw
