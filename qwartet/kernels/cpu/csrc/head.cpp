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
constexpr int ROWS_AT_ONCE = 64;

// Norms of a token's activations and of their rounding error, rounded up.
struct TokenNorms {
    float exact;
    float error;
};

float rounded_up(double value) { return std::nextafter(float(value), INFINITY); }

std::vector<TokenNorms> norms_of(const Activations& a, const uint16_t* x, int64_t stride, int64_t num_inputs) {
    std::vector<double> exact(a.num_tokens), error(a.num_tokens);
    for (int64_t group = 0; group < a.num_groups; group++)
        for (int64_t token = 0, num_low = 0; token < a.num_tokens; token++) {
            const int64_t start = group * GROUP;
            if (token % CHUNK_TOKENS == 0) num_low = 0;
            double rounded[GROUP];
            a.read_rounded(token, group, num_low, rounded);
            num_low += a.has_low[a.at(group, token)];
            for (int64_t i = 0; i < GROUP && start + i < num_inputs; i++) {
                const uint32_t bits = uint32_t(x[token * stride + start + i]) << 16;
                float value;
                std::memcpy(&value, &bits, 4);
                exact[token] += double(value) * value;
                error[token] += (value - rounded[i]) * (value - rounded[i]);
            }
        }
    std::vector<TokenNorms> norms;
    for (int64_t token = 0; token < a.num_tokens; token++)
        norms.push_back({rounded_up(std::sqrt(exact[token])), rounded_up(std::sqrt(error[token]))});
    return norms;
}

// The error bound of a row's 8-bit value, as a multiple of its norms.
class Bounds {
public:
    Bounds(const Head& head, TokenNorms norms) : head_(head), norms_(norms) {
        // Both sums have at most this many additions in sequence; each loses 2^-24 of at most |w| |x|.
        const double additions = double(head.packed.num_units()) * 4 + double(head.exact.num_inputs) / 16 + 64;
        rounding_ = float(additions * 0x1p-24 * 1.5);
    }
    float of(int64_t row) const { return head_.error_norms[row] * norms_.exact + head_.row_norms[row] * row_factor(); }
    F32 of_16(int64_t row) const {
        const F32 rounding = mul(load_f32(head_.row_norms + row), set_f32(row_factor()));
        return fma(load_f32(head_.error_norms + row), set_f32(norms_.exact), rounding);
    }

private:
    float row_factor() const { return norms_.error + rounding_ * norms_.exact; }

    const Head& head_;
    const TokenNorms norms_;
    float rounding_;
};

struct Best {
    float value = -INFINITY;
    int64_t row = -1;
    int64_t num_candidates = 0;

    void take(float other_value, int64_t other_row) {  // rows come in ascending order: the first of equals stays
        if (other_row >= 0 && (row < 0 || other_value > value)) value = other_value, row = other_row;
    }
};

// The state of a token during the search.
struct Search {
    int64_t token;
    Bounds bounds;
    const float* rough;   // [N]
    const uint16_t* x;    // padded
    float threshold;      // the largest lower bound: a row that cannot reach it is not a candidate

    float lower_bound(int64_t begin, int64_t end) const {
        F32 most = set_f32(-INFINITY);
        int64_t row = begin;
        for (; row + 16 <= end; row += 16) most = max(sub(load_f32(rough + row), bounds.of_16(row)), most);
        float bound = reduce_max(most);
        for (; row < end; row++) bound = std::max(bound, rough[row] - bounds.of(row));
        return bound;
    }

    Best best(const DenseWeight& exact, int64_t begin, int64_t end) const {
        Best found;
        const auto look_at = [&](int64_t row, float upper) {
            if (!(upper >= threshold)) return;
            found.take(dense_output(exact, row, x), row);
            found.num_candidates++;
        };
        int64_t row = begin;
        for (; row + ROWS_AT_ONCE <= end; row += ROWS_AT_ONCE) {
            float upper[ROWS_AT_ONCE];
            F32 most = set_f32(-INFINITY);
            for (int i = 0; i < ROWS_AT_ONCE; i += 16) {
                const F32 values = qw::add(load_f32(rough + row + i), bounds.of_16(row + i));
                store_f32(upper + i, values);
                most = max(values, most);
            }
            if (reduce_max(most) < threshold) continue;
            for (int i = 0; i < ROWS_AT_ONCE; i++) look_at(row + i, upper[i]);
        }
        for (; row < end; row++) look_at(row, rough[row] + bounds.of(row));
        return found;
    }
};

// One pass over the rows for the thresholds of all tokens, and one for their candidates: the norms of a piece of rows stay
// in the cache for all of them.
std::vector<Best> best_of(const DenseWeight& exact, std::vector<Search>& searches, int64_t num_valid) {
    const int64_t num_tasks = (num_valid + ROWS_OF_TASK - 1) / ROWS_OF_TASK, count = searches.size();
    const auto for_pieces = [&](const auto& body) {
        parallel_for(num_tasks, [&](int64_t task) {
            const int64_t begin = task * ROWS_OF_TASK, end = std::min(num_valid, begin + ROWS_OF_TASK);
            for (int64_t i = 0; i < count; i++) body(i, i * num_tasks + task, begin, end);
        });
    };
    std::vector<float> lower(count * num_tasks);
    for_pieces([&](int64_t i, int64_t place, int64_t begin, int64_t end) { lower[place] = searches[i].lower_bound(begin, end); });
    for (int64_t i = 0; i < count; i++)
        searches[i].threshold = *std::max_element(&lower[i * num_tasks], &lower[i * num_tasks] + num_tasks);
    std::vector<Best> found(count * num_tasks), best(count);
    for_pieces([&](int64_t i, int64_t place, int64_t begin, int64_t end) { found[place] = searches[i].best(exact, begin, end); });
    for (int64_t place = 0; place < count * num_tasks; place++) {
        best[place / num_tasks].take(found[place].value, found[place].row);
        best[place / num_tasks].num_candidates += found[place].num_candidates;
    }
    return best;
}

}  // namespace

int64_t candidates_bytes(int64_t num_tokens, int64_t num_rows) { return 4 * num_tokens * num_rows; }

void head_argmax(const Head& head, const uint16_t* x, int64_t num_tokens, int64_t stride, int64_t num_valid,
                 int64_t* token_ids, int64_t* num_candidates) {
    const int64_t num_inputs = head.exact.num_inputs, num_rows = head.packed.num_outputs;
    const Activations a = quantize_activations(x, num_tokens, num_inputs, stride, nullptr, 8, head.packed.unit, Low::WHERE_NEEDED);
    auto* rough = static_cast<float*>(scratch(Scratch::candidates, candidates_bytes(num_tokens, num_rows)));
    quantized_linear(head.packed, a, {rough, num_rows, Store::FLOAT});
    const std::vector<TokenNorms> norms = norms_of(a, x, stride, num_inputs);
    int64_t padded_stride;  // takes the place of the rounded activations
    const uint16_t* padded = padded_tokens(x, num_tokens, num_inputs, stride, &padded_stride);
    std::vector<Search> searches;
    for (int64_t t = 0; t < num_tokens; t++) {
        token_ids[t] = -1, num_candidates[t] = 0;
        if (std::isfinite(norms[t].exact))
            searches.push_back({t, Bounds(head, norms[t]), rough + t * num_rows, padded + t * padded_stride, 0});
    }
    const std::vector<Best> best = best_of(head.exact, searches, num_valid);
    for (size_t i = 0; i < best.size(); i++) {
        token_ids[searches[i].token] = best[i].row;
        num_candidates[searches[i].token] = best[i].num_candidates;
    }
}

}  // namespace qw
