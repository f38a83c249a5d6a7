#include "activations.h"

#include <cmath>
#include <limits>

#include "simd.h"
#include "thread_pool.h"

namespace qw {
namespace {

// A group gets its `low` when max^2 > CREST^2 * mean(x^2). Half a step is then more than CREST / 254 of the root mean
// square. Chosen by measurement: docs/kernels.md, "Activations".
constexpr float CREST = 3.0f;

// One token's group: 128 floats -> high, low, scale, sums.
void quantize_group(const F32 (&x)[GROUP / 16], Activations& a, int64_t group, int64_t token, bool evens_first, Low mode) {
    const int64_t at = a.at(group, token);
    F32 largest = set_f32(0), nothing = set_f32(0);
    for (const F32& part : x) {
        largest = max(largest, max(part, sub(set_f32(0), part)));
        nothing = fma(part, set_f32(0), nothing);  // 0, or NaN after a NaN or an infinity
    }
    const float most = reduce_max(largest);
    const bool is_finite = reduce_add(nothing) == 0.0f;
    // The smallest normal float: below it 127 / most would be infinite, and such a group is as good as 0.
    const bool is_zero = !(most > 1.2e-38f * 127);
    const float inverse = is_finite && !is_zero ? 127.0f / most : 0.0f;
    // NaN and infinity must reach the result: a scale of NaN does it.
    a.scales[at] = is_finite ? (is_zero ? 0.0f : most / 127.0f) : std::numeric_limits<float>::quiet_NaN();

    F32 squares = set_f32(0);
    F32 scaled[GROUP / 16], high[GROUP / 16];
    I32 sum = set_i32(0);
    const int parts_of_unit = a.unit / 16;
    const int64_t first_unit = group * (GROUP / a.unit);
    for (int i = 0; i < GROUP / 16; i++) {
        scaled[i] = is_finite ? mul(x[i], set_f32(inverse)) : set_f32(0);
        squares = fma(scaled[i], scaled[i], squares);
        high[i] = round(scaled[i]);
        I32 whole = round_to_i32(high[i]);
        store_i8(a.high + at * GROUP + 16 * i, whole, evens_first);
        sum = add_i32(sum, whole);
        if ((i + 1) % parts_of_unit == 0) {
            a.high_sums[(first_unit + i / parts_of_unit) * a.num_tokens + token] = reduce_add_i32(sum);
            sum = set_i32(0);
        }
    }
    const bool stands_out = 127.0f * 127.0f * GROUP > CREST * CREST * reduce_add(squares);
    a.has_low[at] = mode == Low::ALWAYS || (stands_out && !is_zero);
    if (!a.has_low[at]) return;
    for (int i = 0; i < GROUP / 16; i++) {
        F32 rest = mul(sub(scaled[i], high[i]), set_f32(256));
        I32 whole = round_to_i32(min(rest, set_f32(127)));
        store_i8(a.low + at * GROUP + 16 * i, whole, evens_first);
        sum = add_i32(sum, whole);
        if ((i + 1) % parts_of_unit == 0) {
            a.low_sums[(first_unit + i / parts_of_unit) * a.num_tokens + token] = reduce_add_i32(sum);
            sum = set_i32(0);
        }
    }
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

// The list of what is multiplied by one unit of weights, for one chunk of tokens.
void list_parts(Activations& a, int64_t chunk, int64_t unit) {
    const int units_of_group = GROUP / a.unit;
    const int64_t group = unit / units_of_group, inner = unit % units_of_group * a.unit, first = chunk * CHUNK_TOKENS;
    Part* const begin = a.parts + (chunk * a.num_units() + unit) * a.parts_of_unit();
    Part* next = begin;
    for (int64_t token = 0; token < a.chunk_size(chunk); token++) {
        const int64_t i = a.at(group, first + token);
        *next++ = {a.high + i * GROUP + inner, a.scales[i], a.high_sums[a.at(unit, first + token)], int32_t(token)};
    }
    for (int64_t token = 0; token < a.chunk_size(chunk); token++) {
        const int64_t i = a.at(group, first + token);
        if (!a.has_low[i]) continue;
        *next++ = {a.low + i * GROUP + inner, a.scales[i] * (1.0f / 256), a.low_sums[a.at(unit, first + token)], int32_t(token)};
    }
    a.num_parts[chunk * a.num_units() + unit] = int32_t(next - begin);
}

}  // namespace

Activations quantize_activations(const uint16_t* x, int64_t num_tokens, int64_t num_inputs, int64_t stride,
                                 const int32_t* order, int bits, int unit, Low low) {
    Activations a;
    a.num_tokens = num_tokens;
    a.num_groups = (num_inputs + GROUP - 1) / GROUP;
    a.unit = unit;
    const int64_t count = a.num_groups * num_tokens, num_sums = count * (GROUP / unit);
    a.high = static_cast<int8_t*>(scratch(Scratch::activations, 2 * count * GROUP));
    a.low = a.high + count * GROUP;
    a.high_sums = static_cast<int32_t*>(scratch(Scratch::sums, 2 * num_sums * 4 + count * 5));
    a.low_sums = a.high_sums + num_sums;
    a.scales = reinterpret_cast<float*>(a.low_sums + num_sums);
    a.has_low = reinterpret_cast<uint8_t*>(a.scales + count);
    const int64_t num_lists = a.num_chunks() * a.num_units();
    a.parts = static_cast<Part*>(scratch(Scratch::parts, num_lists * (a.parts_of_unit() * sizeof(Part) + 4)));
    a.num_parts = reinterpret_cast<int32_t*>(a.parts + num_lists * a.parts_of_unit());

    auto quantize_rows = [&](int64_t first, int64_t last) {
        F32 group_values[GROUP / 16];
        for (int64_t token = first; token < last; token++)
            for (int64_t group = 0; group < a.num_groups; group++) {
                load_group(group_values, x + token * stride, group * GROUP, num_inputs, order);
                quantize_group(group_values, a, group, token, bits == 4, low);
            }
    };
    constexpr int64_t ROWS_OF_TASK = 8;
    parallel_for((num_tokens + ROWS_OF_TASK - 1) / ROWS_OF_TASK, [&](int64_t task) {
        const int64_t last = (task + 1) * ROWS_OF_TASK;
        quantize_rows(task * ROWS_OF_TASK, last < num_tokens ? last : num_tokens);
    });
    const int64_t lists_of_task = num_tokens < 16 ? num_lists : 4;
    parallel_for((num_lists + lists_of_task - 1) / lists_of_task, [&](int64_t task) {
        for (int64_t i = task * lists_of_task; i < (task + 1) * lists_of_task && i < num_lists; i++)
            list_parts(a, i / a.num_units(), i % a.num_units());
    });
    return a;
}

}  // namespace qw
