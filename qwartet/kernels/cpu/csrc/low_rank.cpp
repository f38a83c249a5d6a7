#include "low_rank.h"

#include <algorithm>
#include <cstring>

#include "dense_linear.h"
#include "simd.h"
#include "thread_pool.h"
#include "unroll.h"

namespace qw {
namespace {

constexpr int TILES = PANEL / 16;
constexpr int64_t RANKS_OF_TASK = 8;
constexpr int64_t TOKENS_OF_TASK = 48;
constexpr int TOKENS_AT_ONCE = 4;  // that share a panel of B in registers

// sums[t][64] += sum over j of low[t][j] * b[j, 64], 16 * HELD outputs at a time.
template <int TOKENS, int HELD>
void add_tile(const uint16_t* b, int64_t rank, const float* const* low, float* const* sums) {
    for (int tile = 0; tile < TILES; tile += HELD) {
        F32 acc[TOKENS][HELD];
        unroll<TOKENS>([&](auto t) QW_INLINE {
            unroll<HELD>([&](auto h) QW_INLINE { acc[t][h] = load_f32(sums[t] + 16 * (tile + h)); });
        });
        const uint16_t* row = b + 16 * tile;
        for (int64_t j = 0; j < rank; j++, row += PANEL) {
            F32 w[HELD];
            unroll<HELD>([&](auto h) QW_INLINE { w[h] = load_bf16(row + 16 * h); });
            unroll<TOKENS>([&](auto t) QW_INLINE {
                const F32 value = set_f32(low[t][j]);
                unroll<HELD>([&](auto h) QW_INLINE { acc[t][h] = fma(w[h], value, acc[t][h]); });
            });
        }
        unroll<TOKENS>([&](auto t) QW_INLINE {
            unroll<HELD>([&](auto h) QW_INLINE { store_f32(sums[t] + 16 * (tile + h), acc[t][h]); });
        });
    }
}

struct Task {
    int linear;
    int64_t adapter, token, num_tokens, rank, num_ranks;  // tokens and ranks from .. on
};

// Rows of the groups, padded as dense_tile needs them.
const uint16_t* gathered(const RowGroups& groups, const uint16_t* x, int64_t num_inputs, int64_t stride, int64_t* padded_stride) {
    const int64_t count = int64_t(groups.rows.size());
    *padded_stride = padded_bytes(1, num_inputs) / 2;
    auto* copy = static_cast<uint16_t*>(scratch(Scratch::activations, padded_bytes(count, num_inputs)));
    for (int64_t i = 0; i < count; i++) {
        std::memcpy(copy + i * *padded_stride, x + groups.rows[i] * stride, 2 * num_inputs);
        std::memset(copy + i * *padded_stride + num_inputs, 0, 2 * (*padded_stride - num_inputs));
    }
    return copy;
}

// low[token, rank] = scale * A x for the tokens and ranks of a task.
void multiply(const LowRank& adapter, const Task& task, const uint16_t* x, int64_t x_stride, int64_t num_inputs, float* low,
              int64_t stride) {
    const DenseWeight a{adapter.a, nullptr, num_inputs, adapter.rank};
    float sums[DENSE_ROWS][DENSE_TOKENS];
    for (int64_t token = task.token; token < task.token + task.num_tokens; token += DENSE_TOKENS) {
        const int count = int(std::min<int64_t>(task.token + task.num_tokens - token, DENSE_TOKENS));
        for (int64_t rank = task.rank, rows; rank < task.rank + task.num_ranks; rank += rows) {
            rows = count > 1 && task.rank + task.num_ranks - rank >= DENSE_ROWS ? DENSE_ROWS : 1;
            dense_tile(a, rank, int(rows), x + token * x_stride, x_stride, count, sums);
            for (int64_t r = 0; r < rows; r++)
                for (int t = 0; t < count; t++) low[(token + t) * stride + rank + r] = adapter.scale * sums[r][t];
        }
    }
}

}  // namespace

RowGroups::RowGroups(const int32_t* index, int64_t num_rows, int64_t num_adapters) {
    for (int64_t adapter = 0; index && adapter < num_adapters; adapter++) {
        const int64_t begin = int64_t(rows.size());
        for (int64_t m = 0; m < num_rows; m++)
            if (index[m] == adapter) rows.push_back(m);
        if (int64_t(rows.size()) > begin) groups.push_back({adapter, begin, int64_t(rows.size())});
    }
}

void LowProducts::prefetch_panel(int64_t panel, int64_t part, int64_t num_parts) const {
    if (!adapters) return;
    for (const RowGroups::Group& group : groups->groups) {
        const int64_t rank = adapters[group.adapter].rank;
        const uint16_t* b = adapters[group.adapter].b + panel * rank * PANEL;
        for (int64_t j = rank * part / num_parts; j < rank * (part + 1) / num_parts; j++)
            for (int line = 0; line < PANEL; line += 32) prefetch(b + j * PANEL + line);
    }
}

void LowProducts::add(int64_t panel, int64_t first, int64_t count, float* sums) const {
    if (!adapters) return;
    for (const RowGroups::Group& group : groups->groups) {
        const LowRank& adapter = adapters[group.adapter];
        if (!adapter.rank) continue;
        const uint16_t* b = adapter.b + panel * adapter.rank * PANEL;
        const auto begin = groups->rows.begin() + group.begin, end = groups->rows.begin() + group.end;
        int64_t i = std::lower_bound(begin, end, first) - groups->rows.begin();
        const int64_t last = std::lower_bound(begin, end, first + count) - groups->rows.begin();
        while (i < last) {
            const float* from[TOKENS_AT_ONCE];
            float* to[TOKENS_AT_ONCE];
            const int at_once = last - i >= TOKENS_AT_ONCE ? TOKENS_AT_ONCE : 1;
            for (int t = 0; t < at_once; t++, i++) {
                from[t] = low + i * stride;
                to[t] = sums + (groups->rows[i] - first) * PANEL;
            }
            if (at_once == 1) add_tile<1, TILES>(b, adapter.rank, from, to);
            else add_tile<TOKENS_AT_ONCE, 1>(b, adapter.rank, from, to);
        }
    }
}

int64_t low_bytes(int64_t num_tokens, int64_t rank) { return 4 * num_tokens * rank; }

void low_products(const LowRank* const* linears, int count, const RowGroups& groups, const uint16_t* x, int64_t num_inputs,
                  int64_t stride, LowProducts* results) {
    std::vector<Task> tasks;
    int64_t most = 0;
    for (int l = 0; l < count; l++) {
        results[l] = {};
        if (!linears[l]) continue;
        for (const RowGroups::Group& group : groups.groups) {
            const int64_t rank = linears[l][group.adapter].rank;
            most = std::max(most, rank);
            for (int64_t token = group.begin; rank && token < group.end; token += TOKENS_OF_TASK)
                for (int64_t r = 0; r < rank; r += RANKS_OF_TASK)
                    tasks.push_back({l, group.adapter, token, std::min(group.end - token, TOKENS_OF_TASK), r,
                                     std::min(rank - r, RANKS_OF_TASK)});
        }
    }
    if (tasks.empty()) return;
    const int64_t num_rows = int64_t(groups.rows.size());
    auto* low = static_cast<float*>(scratch(Scratch::low_rank, count * low_bytes(num_rows, most)));
    int64_t x_stride;
    const uint16_t* rows = gathered(groups, x, num_inputs, stride, &x_stride);
    parallel_for(int64_t(tasks.size()), [&](int64_t i) {
        const Task& task = tasks[i];
        multiply(linears[task.linear][task.adapter], task, rows, x_stride, num_inputs, low + task.linear * num_rows * most, most);
    });
    for (int l = 0; l < count; l++)
        if (linears[l]) results[l] = {linears[l], &groups, low + l * num_rows * most, most};
}

}  // namespace qw
