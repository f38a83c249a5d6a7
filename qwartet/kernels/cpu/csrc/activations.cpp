#include "activations.h"

#include <cstring>
#include <limits>

#include "simd.h"
#include "thread_pool.h"
#include "unroll.h"

namespace qw {
namespace {

// A group gets its `low` when max^2 > CREST^2 * mean(x^2). Half a step is then more than CREST / 254 of the root mean
// square. At 3.5 the golden sets are near their tolerance, here well within it (docs/log.md).
constexpr float CREST = 3.2f;

// Intermediate results before the parts are assembled: per token, in the order of computation.
struct Rows {
    int8_t* low;         // [G, M, 128]
    int32_t* high_sums;  // [units, M]
    int32_t* low_sums;
};

// The index of the i-th of 128 int16: each four in the order 0 2 1 3.
constexpr int place_of_int16(int i) { return (i & ~3) + (i & 1) * 2 + (i >> 1 & 1); }

void merge(const int8_t* high, const int8_t* low, int8_t* values) {
    int16_t merged[GROUP];
    for (int i = 0; i < GROUP; i++) merged[place_of_int16(i)] = int16_t(256 * high[i] + low[i]);
    std::memcpy(values, merged, sizeof merged);
}

// Stores 128 whole numbers as int8, and adds up those that share a unit of weights.
template <class Number>
QW_INLINE inline void store_group(const Number& number_of, int8_t* values, int32_t* sums, const Activations& a, bool evens_first) {
    const int parts_of_unit = a.unit / 16;
    for (int i = 0; i < GROUP / 16; sums += a.num_tokens) {
        I32 sum = set_i32(0);
        for (const int end = i + parts_of_unit; i < end; i++) {
            const I32 whole = round_to_i32(number_of(i));
            store_i8(values + 16 * i, whole, evens_first);
            sum = add_i32(sum, whole);
        }
        *sums = reduce_add_i32(sum);
    }
}

// One token's group: 128 floats -> high, low, scale, sums.
void quantize_group(const F32 (&x)[GROUP / 16], Activations& a, const Rows& rows, int64_t group, int64_t token,
                    bool evens_first, Low mode) {
    const int64_t at = a.at(group, token), first_sum = a.at(group * (GROUP / a.unit), token);
    F32 largest = set_f32(0), nothing = set_f32(0);
    for (const F32& part : x) {
        largest = max(largest, max(part, sub(set_f32(0), part)));
        nothing = fma(part, set_f32(0), nothing);  // 0, or NaN after a NaN or an infinity
    }
    const float most = reduce_max(largest);
    const bool is_finite = reduce_add(nothing) == 0.0f;
    // The smallest normal float: below it 127 / most would be infinite, and such a group is effectively 0.
    const bool is_zero = !(most > 1.2e-38f * 127);
    const float inverse = is_finite && !is_zero ? 127.0f / most : 0.0f;
    // NaN and infinity must reach the result: a scale of NaN does it.
    a.scales[at] = is_finite ? (is_zero ? 0.0f : most / 127.0f) : std::numeric_limits<float>::quiet_NaN();

    F32 squares = set_f32(0), scaled[GROUP / 16];
    int8_t* values = a.values_of(token / CHUNK_TOKENS, group) + token % CHUNK_TOKENS * GROUP * a.value_bytes;
    for (int i = 0; i < GROUP / 16; i++) {
        scaled[i] = is_finite ? mul(x[i], set_f32(inverse)) : set_f32(0);
        squares = fma(scaled[i], scaled[i], squares);
    }
    const auto high_of = [&](int i) QW_INLINE { return round(scaled[i]); };
    const auto low_of = [&](int i) QW_INLINE {
        return round(min(mul(sub(scaled[i], round(scaled[i])), set_f32(256)), set_f32(127)));
    };
    if (a.value_bytes == 2) {
        int8_t high[GROUP], low[GROUP];
        store_group(high_of, high, rows.high_sums + first_sum, a, evens_first);
        store_group(low_of, low, rows.low_sums + first_sum, a, evens_first);
        merge(high, low, values);
        a.has_low[at] = 0;
        return;
    }
    store_group(high_of, values, rows.high_sums + first_sum, a, evens_first);
    const bool stands_out = 127.0f * 127.0f * GROUP > CREST * CREST * reduce_add(squares);
    a.has_low[at] = mode == Low::ALWAYS || (stands_out && !is_zero);
    if (!a.has_low[at]) return;
    store_group(low_of, rows.low + at * GROUP, rows.low_sums + first_sum, a, evens_first);
}

// Loads 128 inputs; those beyond num_inputs are 0.
void load_group(F32 (&x)[GROUP / 16], const uint16_t* row, int64_t start, int64_t num_inputs, const int32_t* order) {
    uint16_t copy[GROUP];
    const uint16_t* source = row + start;
    const int64_t count = num_inputs - start < GROUP ? num_inputs - start : GROUP;
    if (order || count < GROUP) {
        for (int64_t i = 0; i < GROUP; i++)
            copy[i] = i >= count ? 0 : order ? row[order[start + i]] : source[i];
        source = copy;
    }
    for (int i = 0; i < GROUP / 16; i++) x[i] = load_bf16(source + 16 * i);
}

// Puts the `low` of a group after the `high`, and lists the weight of each.
void list_parts(Activations& a, const Rows& rows, int64_t chunk, int64_t group) {
    const int64_t first = chunk * CHUNK_TOKENS, count = a.chunk_size(chunk);
    int8_t* values = a.values_of(chunk, group);
    const int units = GROUP / a.unit;
    int64_t num_parts = count;
    for (int64_t token = 0; token < count; token++) {
        const int64_t at = a.at(group, first + token);
        for (int i = 0; i < units; i++) {
            const int64_t sum = a.at(group * units + i, first + token);
            Part& part = a.parts_of(chunk, group * units + i)[token] = {a.scales[at], rows.high_sums[sum], int32_t(token)};
            if (a.value_bytes == 2) part = {part.scale * (1.0f / 256), 256 * part.sum + rows.low_sums[sum], part.token};
        }
        if (!a.has_low[at]) continue;
        std::memcpy(values + num_parts * GROUP, rows.low + at * GROUP, GROUP);
        for (int i = 0; i < units; i++)
            a.parts_of(chunk, group * units + i)[num_parts] = {
                a.scales[at] * (1.0f / 256), rows.low_sums[a.at(group * units + i, first + token)], int32_t(token)};
        num_parts++;
    }
    a.num_parts[chunk * a.num_groups + group] = int32_t(num_parts);
}

// Calls body(i) for 0 .. count - 1 on all threads, `grain` at a time.
template <class Body>
void in_pieces(int64_t count, int64_t grain, const Body& body) {
    parallel_for((count + grain - 1) / grain, [&](int64_t task) {
        for (int64_t i = task * grain; i < (task + 1) * grain && i < count; i++) body(i);
    });
}

}  // namespace

void Activations::read_rounded(int64_t token, int64_t group, int64_t num_low, double* out) const {
    const int64_t chunk = token / CHUNK_TOKENS, place = token % CHUNK_TOKENS;
    const double scale = scales[at(group, token)];
    const int8_t* row = values_of(chunk, group) + place * GROUP * value_bytes;
    if (value_bytes == 2) {
        int16_t merged[GROUP];
        std::memcpy(merged, row, sizeof merged);
        for (int i = 0; i < GROUP; i++) out[i] = scale * merged[place_of_int16(i)] / 256;
        return;
    }
    const bool with_low = has_low[at(group, token)];
    const int8_t* low = values_of(chunk, group) + (chunk_size(chunk) + num_low) * GROUP;
    for (int i = 0; i < GROUP; i++) out[i] = scale * (row[i] + (with_low ? low[i] / 256.0 : 0.0));
}

namespace {

Activations sized(int64_t num_tokens, int64_t num_inputs, int unit) {
    Activations a{};
    a.num_tokens = num_tokens;
    a.num_groups = (num_inputs + GROUP - 1) / GROUP;
    a.unit = unit;
    return a;
}

ActivationBytes bytes_of(const Activations& a) {
    const int64_t num_rows = a.num_groups * a.num_tokens, num_sums = a.num_units() * a.num_tokens;
    const int64_t num_lists = a.num_chunks() * a.num_groups;
    return {num_lists * a.room() * GROUP, a.num_chunks() * a.num_units() * a.room() * int64_t(sizeof(Part)) + 4 * num_lists,
            8 * num_sums + (4 + 1 + GROUP) * num_rows};
}

}  // namespace

ActivationBytes activation_bytes(int64_t num_tokens, int64_t num_inputs, int unit) {
    return bytes_of(sized(num_tokens, num_inputs, unit));
}

Activations quantize_activations(const uint16_t* x, int64_t num_tokens, int64_t num_inputs, int64_t stride,
                                 const int32_t* order, int bits, int unit, Low low) {
    Activations a = sized(num_tokens, num_inputs, unit);
    const ActivationBytes bytes = bytes_of(a);
    a.value_bytes = bits == 8 ? PLANES_OF_BYTES : 1;
    const int64_t num_rows = a.num_groups * num_tokens, num_sums = a.num_units() * num_tokens;
    const int64_t num_lists = a.num_chunks() * a.num_groups;
    a.values = static_cast<int8_t*>(scratch(Scratch::activations, bytes.values));
    a.parts = static_cast<Part*>(scratch(Scratch::parts, bytes.parts));
    a.num_parts = reinterpret_cast<int32_t*>(a.parts + a.num_chunks() * a.num_units() * a.room());
    Rows rows;
    rows.high_sums = static_cast<int32_t*>(scratch(Scratch::sums, bytes.sums));
    rows.low_sums = rows.high_sums + num_sums;
    a.scales = reinterpret_cast<float*>(rows.low_sums + num_sums);
    rows.low = reinterpret_cast<int8_t*>(a.scales + num_rows);
    a.has_low = reinterpret_cast<uint8_t*>(rows.low + num_rows * GROUP);

    const bool is_small = num_tokens < 8;  // not worth waking the workers
    in_pieces(num_tokens, is_small ? num_tokens : 4, [&](int64_t token) {
        F32 values[GROUP / 16];
        for (int64_t group = 0; group < a.num_groups; group++) {
            load_group(values, x + token * stride, group * GROUP, num_inputs, order);
            quantize_group(values, a, rows, group, token, bits == 4, low);
        }
    });
    in_pieces(num_lists, is_small ? num_lists : 4,
              [&](int64_t i) { list_parts(a, rows, i / a.num_groups, i % a.num_groups); });
    return a;
}

}  // namespace qw
