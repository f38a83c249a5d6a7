#include "linear_gradient.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "simd.h"
#include "thread_pool.h"
#include "unroll.h"

namespace qw {
namespace {

constexpr int LANES = 16 * GRADIENT_VECTORS;         // tokens whose sums stay in registers together
constexpr int64_t FEWEST_TOKENS = 64;                // that a dequantised block is worth
constexpr int64_t WEIGHT_BYTES = 4 * GROUP * PANEL;  // a block of weights, fp32 [inputs][outputs]

int64_t whole_tiles(int64_t num_tokens) { return (num_tokens + LANES - 1) / LANES; }

// A block of weights is [128 inputs][64 outputs], or [64 outputs][128 inputs]: as it is written fastest.
enum class Block { BY_INPUT, BY_OUTPUT };

// sums[k][token] += sum over the outputs of a panel of w[k][n] dy[n][token], for ROWS inputs and one tile of tokens.
template <int ROWS, Block BLOCK>
void add_rows(const float* weights, const float* dy, float* sums) {
    constexpr int ROW = BLOCK == Block::BY_INPUT ? PANEL : 1, STEP = BLOCK == Block::BY_INPUT ? 1 : GROUP;
    F32 acc[ROWS][GRADIENT_VECTORS];
    unroll<ROWS>([&](auto r) QW_INLINE {
        unroll<GRADIENT_VECTORS>([&](auto v) QW_INLINE { acc[r][v] = load_f32(sums + r * LANES + 16 * v); });
    });
    for (int n = 0; n < PANEL; n++, dy += LANES) {
        F32 tokens[GRADIENT_VECTORS];
        unroll<GRADIENT_VECTORS>([&](auto v) QW_INLINE { tokens[v] = load_f32(dy + 16 * v); });
        unroll<ROWS>([&](auto r) QW_INLINE {
            const F32 weight = set_f32(weights[r * ROW + n * STEP]);
            unroll<GRADIENT_VECTORS>([&](auto v) QW_INLINE { acc[r][v] = fma(tokens[v], weight, acc[r][v]); });
        });
    }
    unroll<ROWS>([&](auto r) QW_INLINE {
        unroll<GRADIENT_VECTORS>([&](auto v) QW_INLINE { store_f32(sums + r * LANES + 16 * v, acc[r][v]); });
    });
}

using RowsFunction = void (*)(const float*, const float*, float*);

template <Block BLOCK, int... I>
constexpr std::array<RowsFunction, sizeof...(I)> rows_functions(std::integer_sequence<int, I...>) {
    return {add_rows<I + 1, BLOCK>...};
}

template <Block BLOCK>
constexpr auto ROWS_FUNCTIONS = rows_functions<BLOCK>(std::make_integer_sequence<int, GRADIENT_ROWS>{});

// The same for the 128 inputs of a block, in pieces of nearly equal size.
template <Block BLOCK>
void add_block(const float* weights, const float* dy, float* sums) {
    constexpr int NUM_PIECES = (GROUP + GRADIENT_ROWS - 1) / GRADIENT_ROWS;
    for (int piece = 0, done = 0; piece < NUM_PIECES; piece++) {
        const int rows = (GROUP - done) / (NUM_PIECES - piece);
        const int at = done * (BLOCK == Block::BY_INPUT ? PANEL : 1);
        ROWS_FUNCTIONS<BLOCK>[rows - 1](weights + at, dy, sums + done * LANES);
        done += rows;
    }
}

// Block::BY_INPUT of 128 inputs and the 64 outputs of a panel.
template <int BITS>
void dequantize_block(const PackedWeight& weight, int64_t group, int64_t panel, float* block) {
    constexpr int INPUTS = 32 / BITS, MASK = (1 << BITS) - 1;  // inputs of a row of codes
    const int units = GROUP / weight.unit;
    const uint8_t* codes = weight.panels + panel * weight.panel_bytes() + group * units * weight.unit_bytes();
    for (int u = 0; u < units; u++, codes += weight.unit_bytes()) {
        const uint8_t *scales = codes + weight.codes_bytes(), *zeros = scales + 2 * PANEL;
        for (int tile = 0; tile < PANEL; tile += 16) {
            const F32 scale = load_f16(reinterpret_cast<const uint16_t*>(scales) + tile);
            const F32 zero = weight.has_zeros ? to_f32(load_u8_as_i32(zeros + tile)) : set_f32(float(1 << (BITS - 1)));
            float* to = block + u * weight.unit * PANEL + tile;
            for (int k = 0; k < weight.unit; k += INPUTS, to += INPUTS * PANEL) {
                const Bytes row = load_bytes(codes + k / INPUTS * 4 * PANEL + 4 * tile);
                unroll<INPUTS>([&](auto i) QW_INLINE {
                    store_f32(to + i * PANEL, mul(sub(to_f32(bits_of<BITS * i, MASK>(row)), zero), scale));
                });
            }
        }
    }
}

// ROWS x COLUMNS values of a dense weight in fp32, from a row and a column on; zero beyond its sizes.
template <int ROWS, int COLUMNS>
void widen_block(const DenseWeight& weight, int64_t row, int64_t column, float* block) {
    const int64_t columns = std::min<int64_t>(COLUMNS, weight.num_inputs - column);
    for (int64_t r = 0; r < ROWS; r++, block += COLUMNS) {
        const uint16_t* from = weight.rows + (row + r) * weight.num_inputs + column;
        uint16_t rest[COLUMNS] = {};
        if (row + r >= weight.num_outputs) from = rest;
        else if (columns < COLUMNS) from = static_cast<uint16_t*>(std::memcpy(rest, from, 2 * columns));
        for (int i = 0; i < COLUMNS; i += 16) store_f32(block + i, load_bf16(from + i));
    }
}

// dy as fp32 [tiles of tokens][outputs, whole panels][LANES], zero where there is nothing.
float* take_gradient(const Gradient& dy, int64_t first, int64_t num_tokens, int64_t num_outputs) {
    const int64_t panels = (num_outputs + PANEL - 1) / PANEL, tiles = whole_tiles(num_tokens);
    auto* out = static_cast<float*>(scratch(Scratch::activations, 4 * tiles * panels * PANEL * LANES));
    parallel_for(tiles * panels, [&](int64_t task) {
        const int64_t token = task / panels * LANES, output = task % panels * PANEL;
        const int64_t outputs = std::min<int64_t>(PANEL, num_outputs - output);
        const int64_t tokens = std::min<int64_t>(LANES, num_tokens - token);
        float* to = out + task * PANEL * LANES;
        if (outputs < PANEL || tokens < LANES) std::memset(to, 0, 4 * PANEL * LANES);
        for (int64_t t = 0; t < tokens; t++) {
            const int64_t at = (first + token + t) * num_outputs + output;
            alignas(64) float row[PANEL] = {};
            if (dy.is_float) {
                std::memcpy(row, static_cast<const float*>(dy.data) + at, 4 * outputs);
            } else {
                alignas(64) uint16_t narrow[PANEL] = {};
                std::memcpy(narrow, static_cast<const uint16_t*>(dy.data) + at, 2 * outputs);
                for (int n = 0; n < PANEL; n += 16) store_f32(row + n, load_bf16(narrow + n));
            }
            for (int64_t n = 0; n < outputs; n++) to[n * LANES + t] = row[n];
        }
    });
    return out;
}

// Writes sums [tiles][128][LANES] to the inputs of a group; `order` as in PackedWeight.
void store_group(const float* sums, int64_t group, int64_t first, int64_t num_tokens, int64_t num_inputs, const int32_t* order,
                 const Output& dx) {
    const int64_t input = group * GROUP, inputs = std::min<int64_t>(GROUP, num_inputs - input);
    for (int64_t t = 0; t < num_tokens; t++) {
        const float* from = sums + t / LANES * GROUP * LANES + t % LANES;
        alignas(64) float row[GROUP];
        alignas(64) uint16_t rounded[GROUP];
        for (int k = 0; k < GROUP; k++) row[k] = from[k * LANES];
        for (int k = 0; k < GROUP; k += 16) store_bf16(rounded + k, load_f32(row + k));
        const bool is_float = dx.how == Store::FLOAT;
        const int64_t size = is_float ? 4 : 2;
        const auto* values = is_float ? reinterpret_cast<const uint8_t*>(row) : reinterpret_cast<const uint8_t*>(rounded);
        uint8_t* to = static_cast<uint8_t*>(dx.data) + (first + t) * dx.stride * size;
        if (!order) {
            std::memcpy(to + input * size, values, inputs * size);
        } else {
            for (int64_t k = 0; k < inputs; k++) std::memcpy(to + order[input + k] * size, values + k * size, size);
        }
    }
}

// fill(group, panel, block) writes a block of weights. A task is a group and some tiles of tokens: few groups are
// shared by several threads.
template <Block BLOCK, class Fill>
void linear_gradient(int64_t num_inputs, int64_t num_outputs, const int32_t* order, const Gradient& dy, int64_t num_tokens,
                     const Output& dx, const Fill& fill) {
    const int64_t groups = (num_inputs + GROUP - 1) / GROUP, panels = (num_outputs + PANEL - 1) / PANEL;
    for (int64_t first = 0; first < num_tokens; first += CHUNK_TOKENS) {
        const int64_t size = std::min(CHUNK_TOKENS, num_tokens - first);
        const float* taken = take_gradient(dy, first, size, num_outputs);
        int64_t share = size;
        while (share > FEWEST_TOKENS && groups * ((size + share - 1) / share) < 4 * num_threads())
            share = whole_tiles((share + 1) / 2) * LANES;
        const int64_t shares = (size + share - 1) / share;
        parallel_for(groups * shares, [&](int64_t task) {
            const int64_t group = task / shares, begin = task % shares * share, count = std::min(share, size - begin);
            const int64_t sums_size = whole_tiles(count) * GROUP * LANES;
            auto* block = static_cast<float*>(thread_scratch(WEIGHT_BYTES + 4 * sums_size));
            float* sums = block + GROUP * PANEL;
            std::memset(sums, 0, 4 * sums_size);
            for (int64_t panel = 0; panel < panels; panel++) {
                fill(group, panel, block);
                for (int64_t tile = 0; tile < whole_tiles(count); tile++)
                    add_block<BLOCK>(block, taken + ((begin / LANES + tile) * panels + panel) * PANEL * LANES,
                              sums + tile * GROUP * LANES);
            }
            store_group(sums, group, first + begin, count, num_inputs, order, dx);
        });
    }
}

}  // namespace

void quantized_linear_gradient(const PackedWeight& weight, const Gradient& dy, int64_t num_tokens, const Output& dx) {
    const auto dequantize = weight.bits == 4 ? dequantize_block<4> : dequantize_block<8>;
    linear_gradient<Block::BY_INPUT>(
        weight.num_inputs, weight.num_outputs, weight.order, dy, num_tokens, dx,
        [&](int64_t group, int64_t panel, float* block) { dequantize(weight, group, panel, block); });
}

void dense_linear_gradient(const DenseWeight& weight, const Gradient& dy, int64_t num_tokens, const Output& dx) {
    linear_gradient<Block::BY_OUTPUT>(
        weight.num_inputs, weight.num_outputs, nullptr, dy, num_tokens, dx, [&](int64_t group, int64_t panel, float* block) {
            widen_block<PANEL, GROUP>(weight, panel * PANEL, group * GROUP, block);
        });
}

// The gradient of the transposed weight.
void dense_linear_many(const DenseWeight& weight, const Gradient& x, int64_t num_tokens, const Output& y) {
    linear_gradient<Block::BY_INPUT>(
        weight.num_outputs, weight.num_inputs, nullptr, x, num_tokens, y, [&](int64_t group, int64_t panel, float* block) {
            widen_block<GROUP, PANEL>(weight, group * GROUP, panel * PANEL, block);
        });
}

}  // namespace qw
