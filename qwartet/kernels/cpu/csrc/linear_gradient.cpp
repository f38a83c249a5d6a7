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

// A block of weights is [128 inputs][64 outputs], or [64 outputs][128 inputs]: as it is written fastest.
enum class Block { BY_INPUT, BY_OUTPUT };

// What is multiplied. In a BY_OUTPUT block of bf16 two outputs of an input stand side by side: [32][128 inputs][2].
struct Fp32 {
    using Value = float;
    static constexpr int SIDE_BY_SIDE = 1;  // outputs that one instruction multiplies
    static F32 load(const float* p) { return load_f32(p); }
    static F32 repeat(const float* p) { return set_f32(*p); }
    static F32 multiply_add(F32 tokens, F32 weight, F32 sum) { return fma(tokens, weight, sum); }
    static void store(float* p, F32 values) { store_f32(p, values); }
};
struct Bf16Pairs {
    using Value = uint16_t;
    static constexpr int SIDE_BY_SIDE = 2;
    static Bf16 load(const uint16_t* p) { return load_bf16_pairs(p); }
    static Bf16 repeat(const uint16_t* p) { return repeat_bf16_pair(p); }
    static F32 multiply_add(Bf16 tokens, Bf16 weight, F32 sum) { return dot_bf16(sum, tokens, weight); }
    static void store(uint16_t* p, F32 values) { store_bf16(p, values); }
};

int64_t whole_tiles(int64_t num_tokens) { return (num_tokens + LANES - 1) / LANES; }

// sums[k][token] += sum over the outputs of a panel of w[k][n] dy[n][token], for ROWS inputs and one tile of tokens.
template <class P, int ROWS, Block BLOCK>
void add_rows(const typename P::Value* weights, const typename P::Value* dy, float* sums) {
    constexpr int BESIDE = P::SIDE_BY_SIDE;
    constexpr int ROW = BLOCK == Block::BY_INPUT ? PANEL : BESIDE, STEP = BLOCK == Block::BY_INPUT ? BESIDE : BESIDE * GROUP;
    F32 acc[ROWS][GRADIENT_VECTORS];
    unroll<ROWS>([&](auto r) QW_INLINE {
        unroll<GRADIENT_VECTORS>([&](auto v) QW_INLINE { acc[r][v] = load_f32(sums + r * LANES + 16 * v); });
    });
    for (int n = 0; n < PANEL / BESIDE; n++, dy += BESIDE * LANES) {
        decltype(P::load(dy)) tokens[GRADIENT_VECTORS];
        unroll<GRADIENT_VECTORS>([&](auto v) QW_INLINE { tokens[v] = P::load(dy + 16 * BESIDE * v); });
        unroll<ROWS>([&](auto r) QW_INLINE {
            const auto weight = P::repeat(weights + r * ROW + n * STEP);
            unroll<GRADIENT_VECTORS>([&](auto v) QW_INLINE { acc[r][v] = P::multiply_add(tokens[v], weight, acc[r][v]); });
        });
    }
    unroll<ROWS>([&](auto r) QW_INLINE {
        unroll<GRADIENT_VECTORS>([&](auto v) QW_INLINE { store_f32(sums + r * LANES + 16 * v, acc[r][v]); });
    });
}

template <class P>
using RowsFunction = void (*)(const typename P::Value*, const typename P::Value*, float*);

template <class P, Block BLOCK, int... I>
constexpr std::array<RowsFunction<P>, sizeof...(I)> rows_functions(std::integer_sequence<int, I...>) {
    return {add_rows<P, I + 1, BLOCK>...};
}

template <class P, Block BLOCK>
constexpr auto ROWS_FUNCTIONS = rows_functions<P, BLOCK>(std::make_integer_sequence<int, GRADIENT_ROWS>{});

// The same for the 128 inputs of a block, in pieces of nearly equal size.
template <class P, Block BLOCK>
void add_block(const typename P::Value* weights, const typename P::Value* dy, float* sums) {
    constexpr int NUM_PIECES = (GROUP + GRADIENT_ROWS - 1) / GRADIENT_ROWS;
    for (int piece = 0, done = 0; piece < NUM_PIECES; piece++) {
        const int rows = (GROUP - done) / (NUM_PIECES - piece);
        const int at = done * (BLOCK == Block::BY_INPUT ? PANEL : P::SIDE_BY_SIDE);
        ROWS_FUNCTIONS<P, BLOCK>[rows - 1](weights + at, dy, sums + done * LANES);
        done += rows;
    }
}

// Block::BY_INPUT of 128 inputs and the 64 outputs of a panel.
template <class P, int BITS>
void dequantize_block(const PackedWeight& weight, int64_t group, int64_t panel, typename P::Value* block) {
    constexpr int INPUTS = 32 / BITS, MASK = (1 << BITS) - 1;  // inputs of a row of codes
    const int units = GROUP / weight.unit;
    const uint8_t* codes = weight.panels + panel * weight.panel_bytes() + group * units * weight.unit_bytes();
    for (int u = 0; u < units; u++, codes += weight.unit_bytes()) {
        const uint8_t *scales = codes + weight.codes_bytes(), *zeros = scales + 2 * PANEL;
        for (int tile = 0; tile < PANEL; tile += 16) {
            const F32 scale = load_f16(reinterpret_cast<const uint16_t*>(scales) + tile);
            const F32 zero = weight.has_zeros ? to_f32(load_u8_as_i32(zeros + tile)) : set_f32(float(1 << (BITS - 1)));
            auto* to = block + u * weight.unit * PANEL + tile;
            for (int k = 0; k < weight.unit; k += INPUTS, to += INPUTS * PANEL) {
                const Bytes row = load_bytes(codes + k / INPUTS * 4 * PANEL + 4 * tile);
                unroll<INPUTS>([&](auto i) QW_INLINE {
                    P::store(to + i * PANEL, mul(sub(to_f32(bits_of<BITS * i, MASK>(row)), zero), scale));
                });
            }
        }
    }
}

// A row of a dense weight from a column on; zero beyond its sizes. `rest` holds what does not lie in one piece.
template <int COLUMNS>
const uint16_t* row_from(const DenseWeight& weight, int64_t row, int64_t column, uint16_t (&rest)[COLUMNS]) {
    const int64_t columns = std::min<int64_t>(COLUMNS, weight.num_inputs - column);
    const uint16_t* from = weight.rows + row * weight.num_inputs + column;
    if (row < weight.num_outputs && columns == COLUMNS) return from;
    std::memset(rest, 0, sizeof rest);
    if (row < weight.num_outputs) std::memcpy(rest, from, 2 * columns);
    return rest;
}

// ROWS x COLUMNS values of a dense weight, from a row and a column on, as a block whose rows are those of the weight.
template <class P, int ROWS, int COLUMNS, Block BLOCK>
void copy_block(const DenseWeight& weight, int64_t row, int64_t column, typename P::Value* block) {
    constexpr int BESIDE = BLOCK == Block::BY_OUTPUT ? P::SIDE_BY_SIDE : 1;
    for (int64_t r = 0; r < ROWS; r += BESIDE, block += BESIDE * COLUMNS) {
        uint16_t rest[2][COLUMNS];
        const uint16_t* first = row_from<COLUMNS>(weight, row + r, column, rest[0]);
        if constexpr (BESIDE == 2) {
            const uint16_t* second = row_from<COLUMNS>(weight, row + r + 1, column, rest[1]);
            for (int i = 0; i < COLUMNS; i++) block[2 * i] = first[i], block[2 * i + 1] = second[i];
        } else {
            for (int i = 0; i < COLUMNS; i += 16) P::store(block + i, load_bf16(first + i));
        }
    }
}

// dy as [tiles of tokens][outputs, whole panels][LANES], zero where there is nothing; bf16: [...][outputs / 2][LANES][2].
template <class P>
typename P::Value* take_gradient(const Gradient& dy, int64_t first, int64_t num_tokens, int64_t num_outputs) {
    using Value = typename P::Value;
    constexpr int BESIDE = P::SIDE_BY_SIDE;
    const int64_t panels = (num_outputs + PANEL - 1) / PANEL, tiles = whole_tiles(num_tokens);
    auto* out = static_cast<Value*>(scratch(Scratch::activations, sizeof(Value) * tiles * panels * PANEL * LANES));
    parallel_for(tiles * panels, [&](int64_t task) {
        const int64_t token = task / panels * LANES, output = task % panels * PANEL;
        const int64_t outputs = std::min<int64_t>(PANEL, num_outputs - output);
        const int64_t tokens = std::min<int64_t>(LANES, num_tokens - token);
        Value* to = out + task * PANEL * LANES;
        if (outputs < PANEL || tokens < LANES) std::memset(to, 0, sizeof(Value) * PANEL * LANES);
        for (int64_t t = 0; t < tokens; t++) {
            const int64_t at = (first + token + t) * num_outputs + output;
            alignas(64) float wide[PANEL] = {};
            alignas(64) uint16_t narrow[PANEL] = {};
            alignas(64) Value row[PANEL];
            if (dy.is_float) std::memcpy(wide, static_cast<const float*>(dy.data) + at, 4 * outputs);
            else std::memcpy(narrow, static_cast<const uint16_t*>(dy.data) + at, 2 * outputs);
            for (int n = 0; n < PANEL; n += 16) P::store(row + n, dy.is_float ? load_f32(wide + n) : load_bf16(narrow + n));
            for (int64_t n = 0; n < outputs; n++) to[n / BESIDE * BESIDE * LANES + t * BESIDE + n % BESIDE] = row[n];
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
template <class P, Block BLOCK, class Fill>
void linear_gradient(int64_t num_inputs, int64_t num_outputs, const int32_t* order, const Gradient& dy, int64_t num_tokens,
                     const Output& dx, const Fill& fill) {
    using Value = typename P::Value;
    const int64_t groups = (num_inputs + GROUP - 1) / GROUP, panels = (num_outputs + PANEL - 1) / PANEL;
    for (int64_t first = 0; first < num_tokens; first += CHUNK_TOKENS) {
        const int64_t size = std::min(CHUNK_TOKENS, num_tokens - first);
        const Value* taken = take_gradient<P>(dy, first, size, num_outputs);
        int64_t share = size;
        while (share > FEWEST_TOKENS && groups * ((size + share - 1) / share) < 4 * num_threads())
            share = whole_tiles((share + 1) / 2) * LANES;
        const int64_t shares = (size + share - 1) / share;
        parallel_for(groups * shares, [&](int64_t task) {
            const int64_t group = task / shares, begin = task % shares * share, count = std::min(share, size - begin);
            const int64_t sums_size = whole_tiles(count) * GROUP * LANES;
            auto* sums = static_cast<float*>(thread_scratch(4 * sums_size + sizeof(Value) * GROUP * PANEL));
            auto* block = reinterpret_cast<Value*>(sums + sums_size);
            std::memset(sums, 0, 4 * sums_size);
            for (int64_t panel = 0; panel < panels; panel++) {
                fill(group, panel, block);
                for (int64_t tile = 0; tile < whole_tiles(count); tile++)
                    add_block<P, BLOCK>(block, taken + ((begin / LANES + tile) * panels + panel) * PANEL * LANES,
                                        sums + tile * GROUP * LANES);
            }
            store_group(sums, group, first + begin, count, num_inputs, order, dx);
        });
    }
}

template <class P>
void quantized_gradient(const PackedWeight& weight, const Gradient& dy, int64_t num_tokens, const Output& dx) {
    const auto dequantize = weight.bits == 4 ? dequantize_block<P, 4> : dequantize_block<P, 8>;
    linear_gradient<P, Block::BY_INPUT>(
        weight.num_inputs, weight.num_outputs, weight.order, dy, num_tokens, dx,
        [&](int64_t group, int64_t panel, auto* block) { dequantize(weight, group, panel, block); });
}

template <class P>
void dense_gradient(const DenseWeight& weight, const Gradient& dy, int64_t num_tokens, const Output& dx) {
    linear_gradient<P, Block::BY_OUTPUT>(
        weight.num_inputs, weight.num_outputs, nullptr, dy, num_tokens, dx, [&](int64_t group, int64_t panel, auto* block) {
            copy_block<P, PANEL, GROUP, Block::BY_OUTPUT>(weight, panel * PANEL, group * GROUP, block);
        });
}

// The gradient of the transposed weight.
template <class P>
void dense_many(const DenseWeight& weight, const Gradient& x, int64_t num_tokens, const Output& y) {
    linear_gradient<P, Block::BY_INPUT>(
        weight.num_outputs, weight.num_inputs, nullptr, x, num_tokens, y, [&](int64_t group, int64_t panel, auto* block) {
            copy_block<P, GROUP, PANEL, Block::BY_INPUT>(weight, group * GROUP, panel * PANEL, block);
        });
}

bool is_rounded(const Gradient& dy, const Output& dx) { return !dy.is_float || dx.how != Store::FLOAT; }

}  // namespace

void quantized_linear_gradient(const PackedWeight& weight, const Gradient& dy, int64_t num_tokens, const Output& dx) {
    if (FAST_BF16 && is_rounded(dy, dx)) quantized_gradient<Bf16Pairs>(weight, dy, num_tokens, dx);
    else quantized_gradient<Fp32>(weight, dy, num_tokens, dx);
}

void dense_linear_gradient(const DenseWeight& weight, const Gradient& dy, int64_t num_tokens, const Output& dx) {
    if (FAST_BF16 && is_rounded(dy, dx)) dense_gradient<Bf16Pairs>(weight, dy, num_tokens, dx);
    else dense_gradient<Fp32>(weight, dy, num_tokens, dx);
}

void dense_linear_many(const DenseWeight& weight, const Gradient& x, int64_t num_tokens, const Output& y) {
    if (FAST_BF16 && is_rounded(x, y)) dense_many<Bf16Pairs>(weight, x, num_tokens, y);
    else dense_many<Fp32>(weight, x, num_tokens, y);
}

}  // namespace qw
