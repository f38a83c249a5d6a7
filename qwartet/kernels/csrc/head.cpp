#include "head.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "simd.h"
#include "thread_pool.h"

namespace qw {
namespace {

constexpr int64_t ROWS_OF_TASK = 4096;

// Norms of a token's activations and of what their 16 bits leave out, rounded up.
struct TokenNorms {
    float exact;
    float error;
};

TokenNorms norms_of(const Activations& a, int64_t token, const uint16_t* x, int64_t num_inputs) {
    const int64_t chunk = token / CHUNK_TOKENS, place = token % CHUNK_TOKENS;
    double exact = 0, error = 0;
    for (int64_t group = 0; group < a.num_groups; group++) {
        // 8-bit weights keep the order of the inputs, and every token has its `low`, in the order of the tokens.
        const int8_t* high = a.values_of(chunk, group) + place * GROUP;
        const int8_t* low = high + a.chunk_size(chunk) * GROUP;
        for (int64_t i = 0; i < GROUP && group * GROUP + i < num_inputs; i++) {
            const uint32_t bits = uint32_t(x[group * GROUP + i]) << 16;
            float value;
            std::memcpy(&value, &bits, 4);
            const double fixed = double(a.scales[a.at(group, token)]) * (high[i] + low[i] / 256.0);
            exact += double(value) * value;
            error += (value - fixed) * (value - fixed);
        }
    }
    return {std::nextafter(float(std::sqrt(exact)), INFINITY), std::nextafter(float(std::sqrt(error)), INFINITY)};
}

// How far the 8-bit value of a row may lie from the exact one, as a multiple of its norms.
class Bounds {
public:
    Bounds(const Head& head, TokenNorms norms) : head_(head), norms_(norms) {
        // Both sums have at most so many additions one after another; each loses 2^-24 of at most |w| |x|.
        const double additions = double(head.packed.num_units()) * 4 + double(head.exact.num_inputs) / 16 + 64;
        rounding_ = float(additions * 0x1p-24 * 1.5);
    }
    float of(int64_t row) const {
        return head_.error_norms[row] * norms_.exact + head_.row_norms[row] * (norms_.error + rounding_ * norms_.exact);
    }

private:
    const Head& head_;
    const TokenNorms norms_;
    float rounding_;
};

// Calls body(task, begin, end) for pieces of the rows, on all threads.
template <class Body>
void for_rows(int64_t num_rows, const Body& body) {
    parallel_for((num_rows + ROWS_OF_TASK - 1) / ROWS_OF_TASK, [&](int64_t task) {
        body(task, task * ROWS_OF_TASK, std::min(num_rows, (task + 1) * ROWS_OF_TASK));
    });
}

struct Best {
    float value = -INFINITY;
    int64_t row = -1;
    int64_t num_candidates = 0;

    void take(float other_value, int64_t other_row) {  // rows come in ascending order: the first of equals stays
        if (other_row >= 0 && (row < 0 || other_value > value)) value = other_value, row = other_row;
    }
};

Best best_of(const Head& head, const float* rough, const Bounds& bounds, int64_t num_valid, const uint16_t* padded_x) {
    const int64_t num_tasks = (num_valid + ROWS_OF_TASK - 1) / ROWS_OF_TASK;
    std::vector<float> lower(num_tasks, -INFINITY);
    for_rows(num_valid, [&](int64_t task, int64_t begin, int64_t end) {
        float most = -INFINITY;
        for (int64_t row = begin; row < end; row++) most = std::max(most, rough[row] - bounds.of(row));
        lower[task] = most;
    });
    const float threshold = *std::max_element(lower.begin(), lower.end());
    std::vector<Best> found(num_tasks);
    for_rows(num_valid, [&](int64_t task, int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            if (!(rough[row] + bounds.of(row) >= threshold)) continue;
            found[task].take(dense_output(head.exact, row, padded_x), row);
            found[task].num_candidates++;
        }
    });
    Best best;
    for (const Best& part : found) {
        best.take(part.value, part.row);
        best.num_candidates += part.num_candidates;
    }
    return best;
}

}  // namespace

void head_argmax(const Head& head, const uint16_t* x, int64_t num_tokens, int64_t stride, int64_t num_valid,
                 int64_t* token_ids, int64_t* num_candidates) {
    const int64_t num_inputs = head.exact.num_inputs, num_rows = head.packed.num_outputs;
    const Activations a = quantize_activations(x, num_tokens, num_inputs, stride, nullptr, 8, head.packed.unit, Low::ALWAYS);
    auto* rough = static_cast<float*>(scratch(Scratch::candidates, num_tokens * num_rows * 4));
    quantized_linear(head.packed, a, {rough, num_rows, true, nullptr});
    std::vector<TokenNorms> norms;
    for (int64_t t = 0; t < num_tokens; t++) norms.push_back(norms_of(a, t, x + t * stride, num_inputs));
    int64_t padded_stride;  // takes the place of the 16-bit activations
    const uint16_t* padded = padded_tokens(x, num_tokens, num_inputs, stride, &padded_stride);
    for (int64_t t = 0; t < num_tokens; t++) {
        Best best;
        if (std::isfinite(norms[t].exact))
            best = best_of(head, rough + t * num_rows, Bounds(head, norms[t]), num_valid, padded + t * padded_stride);
        token_ids[t] = best.row;
        num_candidates[t] = best.num_candidates;
    }
}

}  // namespace qw
