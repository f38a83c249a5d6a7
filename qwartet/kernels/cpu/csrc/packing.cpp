#include "packing.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "simd.h"
#include "thread_pool.h"

namespace qw {
namespace {

// The words of 64 outputs for the inputs of one row of a unit (32 / bits of them), from anywhere in the file.
void gather_row(const PackedWeight& weight, const int32_t* qweight, int64_t first_input, int64_t output, int64_t count,
                uint32_t (&words)[PANEL]) {
    std::memset(words, 0, sizeof words);
    const int lanes = 32 / weight.bits;
    const uint32_t mask = (1u << weight.bits) - 1;
    for (int lane = 0; lane < lanes && first_input + lane < weight.num_inputs; lane++) {
        const int64_t input = weight.order[first_input + lane];
        const auto* source = reinterpret_cast<const uint32_t*>(qweight) + input / lanes * weight.num_outputs + output;
        const int shift = int(input % lanes) * weight.bits;
        for (int64_t n = 0; n < count; n++) words[n] |= (source[n] >> shift & mask) << (weight.bits * lane);
    }
}

void pack_codes(const PackedWeight& weight, const int32_t* qweight, int64_t unit, int64_t output, int64_t count, uint8_t* to) {
    const int lanes = 32 / weight.bits;
    for (int i = 0; i < weight.unit; i += lanes, to += 4 * PANEL) {
        const int64_t input = unit * weight.unit + i;
        uint32_t words[PANEL] = {};
        if (weight.order) {
            gather_row(weight, qweight, input, output, count, words);
        } else if (input < weight.num_inputs) {
            std::memcpy(words, qweight + input / lanes * weight.num_outputs + output, 4 * count);
        }
        std::memcpy(to, words, sizeof words);
    }
}

// The nearest fp16 that is not smaller, for a positive scale, so that all codes stay within -127 .. 127.
uint16_t f16_not_below(float value) {
    uint16_t bits = 0;
    for (int bit = 14; bit >= 0; bit--) {  // the largest fp16 below `value`, and then the next one
        uint16_t with = uint16_t(bits | 1 << bit), lanes[16];
        std::fill(lanes, lanes + 16, with);
        float wide[16];
        store_f32(wide, load_f16(lanes));
        if (wide[0] < value) bits = with;
    }
    return value > 0 ? uint16_t(bits + 1) : 0;
}

struct RoundedGroup {
    uint8_t codes[GROUP];  // 128 stands for 0
    uint16_t scale;        // fp16
    double error;          // sum of squares of the rounding errors
    double rounded;        // sum of squares of the rounded values
    double exact;
};

RoundedGroup round_group(const uint16_t* row, int64_t count) {
    RoundedGroup out{};
    float values[GROUP] = {}, most = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = uint32_t(row[i]) << 16;
        std::memcpy(&values[i], &bits, 4);
        most = std::max(most, std::fabs(values[i]));
    }
    out.scale = f16_not_below(most / 127.0f);
    uint16_t lanes[16];
    std::fill(lanes, lanes + 16, out.scale);
    float wide[16];
    store_f32(wide, load_f16(lanes));
    const float scale = wide[0];
    for (int i = 0; i < GROUP; i++) {
        const float code = scale > 0 ? std::clamp(std::nearbyint(values[i] / scale), -127.0f, 127.0f) : 0.0f;
        const double rounded = double(scale) * code, error = values[i] - rounded;
        out.codes[i] = uint8_t(int(code) + 128);
        out.error += error * error;
        out.rounded += rounded * rounded;
        out.exact += double(values[i]) * values[i];
    }
    return out;
}

// A square root in fp32 that is not below the exact one.
float root_not_below(double square) { return std::nextafter(float(std::sqrt(square) * (1 + 1e-12)), INFINITY); }

}  // namespace

void pack_gptq(const PackedWeight& weight, const int32_t* qweight, const uint16_t* scales, const uint8_t* zeros,
               int64_t num_groups, int64_t group_size, uint8_t* panels) {
    parallel_for(weight.num_panels(), [&](int64_t panel) {
        const int64_t output = panel * PANEL, count = std::min<int64_t>(PANEL, weight.num_outputs - output);
        uint8_t* to = panels + panel * weight.panel_bytes();
        for (int64_t unit = 0; unit < weight.num_units(); unit++, to += weight.unit_bytes()) {
            const int64_t group = std::min(unit * weight.unit / group_size, num_groups - 1);
            const int64_t from = group * weight.num_outputs + output;
            pack_codes(weight, qweight, unit, output, count, to);
            uint8_t* unit_scales = to + weight.codes_bytes();
            std::memset(unit_scales, 0, weight.unit_bytes() - weight.codes_bytes());
            std::memcpy(unit_scales, scales + from, 2 * count);
            if (weight.has_zeros) std::memcpy(unit_scales + 2 * PANEL, zeros + from, count);
        }
    });
}

void pack_dense(const PackedWeight& weight, const uint16_t* rows, uint8_t* panels, float* error_norms, float* row_norms) {
    parallel_for(weight.num_panels(), [&](int64_t panel) {
        uint8_t* to = panels + panel * weight.panel_bytes();
        std::memset(to, 0, weight.panel_bytes());
        for (int64_t lane = 0; lane < PANEL && panel * PANEL + lane < weight.num_outputs; lane++) {
            const int64_t output = panel * PANEL + lane;
            double error = 0, rounded = 0, exact = 0;
            for (int64_t unit = 0; unit < weight.num_units(); unit++) {
                const int64_t input = unit * GROUP;
                RoundedGroup group = round_group(rows + output * weight.num_inputs + input,
                                                 std::min<int64_t>(GROUP, weight.num_inputs - input));
                uint8_t* unit_at = to + unit * weight.unit_bytes();
                for (int i = 0; i < GROUP; i++) unit_at[i / 4 * 4 * PANEL + lane * 4 + i % 4] = group.codes[i];
                std::memcpy(unit_at + weight.codes_bytes() + 2 * lane, &group.scale, 2);
                error += group.error, rounded += group.rounded, exact += group.exact;
            }
            error_norms[output] = root_not_below(error);
            row_norms[output] = root_not_below(std::max(rounded, exact));
        }
    });
}

}  // namespace qw
