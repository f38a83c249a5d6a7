// What LoRA adapters add to a linear: y[m] += scale * B (A x[m]), with the adapter of row m. Sums run in fp32, in an
// order that depends on the row alone: the same bits in every batch.
//
//   A    bf16 [r, K]
//   B    bf16 [N / 64 rounded up, r, 64]    panels of 64 outputs, like those of quantized_linear.h
#pragma once
#include <cstdint>
#include <vector>

namespace qw {

constexpr int64_t MAX_RANK = 4096;

// One adapter of one linear.
struct LowRank {
    const uint16_t* a;
    const uint16_t* b;
    int64_t rank;  // 0: this adapter leaves the linear as it is
    float scale;
};

// The adapters of the linears of a block: [num_adapters] each, or null where no adapter changes the linear.
struct LayerAdapters {
    const LowRank *qkv, *output, *up, *gate, *down;
};

// The rows of a batch that have an adapter, those of one adapter together.
struct RowGroups {
    struct Group {
        int64_t adapter, begin, end;  // rows[begin : end]
    };
    std::vector<int64_t> rows;  // ascending within a group
    std::vector<Group> groups;

    RowGroups(const int32_t* index, int64_t num_rows, int64_t num_adapters);  // index [M], -1 for none, or null
};

// scale * A x of a batch's rows, and B: what the panels of a linear need.
struct LowProducts {
    const LowRank* adapters = nullptr;
    const RowGroups* groups = nullptr;
    const float* low = nullptr;  // [rows of the groups, stride]
    int64_t stride = 0;

    // Starts to read one of `num_parts` parts of what a panel needs: pieces of memory too short for the processor to
    // foresee, and too long to be asked for at once.
    void prefetch_panel(int64_t panel, int64_t part, int64_t num_parts) const;

    // sums[m - first, 64] += the 64 outputs of a panel, for the rows first <= m < first + count that have an adapter.
    void add(int64_t panel, int64_t first, int64_t count, float* sums) const;
};

// For `count` linears that read the same x, bf16 [M, K] with rows `stride` apart. A linear without adapters is null.
// The results stay in scratch memory until the next call.
void low_products(const LowRank* const* linears, int count, const RowGroups& groups, const uint16_t* x, int64_t num_inputs,
                  int64_t stride, LowProducts* results);

// Scratch memory of the results.
int64_t low_bytes(int64_t num_tokens, int64_t rank);

}  // namespace qw
