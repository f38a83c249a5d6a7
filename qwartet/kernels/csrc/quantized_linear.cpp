#include "quantized_linear.h"

#include <cstring>
#include <vector>

#include "exponential.h"
#include "simd.h"
#include "thread_pool.h"
#include "unroll.h"

namespace qw {
namespace {

constexpr int ROW = 4 * PANEL;          // bytes: 4 inputs (8 in nibbles) of the 64 outputs
constexpr int TILES = PANEL / 16;       // 16 outputs are the lanes of a vector
constexpr int64_t PREFETCH_BYTES = 8192;  // ahead of the weights being read
constexpr int64_t DIRECT_PARTS = 4;     // up to so many, nibbles are taken apart on the way and not beforehand

// What one unit of a panel needs beside its codes.
struct UnitScales {
    alignas(64) float scales[PANEL];
    alignas(64) uint8_t zeros[PANEL];
};

// acc[t][r] = -zero * sum(x): what the zero of every weight takes off the product of the bare codes.
template <int TOKENS, int ROWS>
QW_INLINE inline void start_from_zeros(I32 (&acc)[TOKENS][ROWS], const PackedWeight& weight, const UnitScales& unit,
                                       const Part* parts, int first_tile) {
    if (weight.has_zeros) {
        unroll<TOKENS>([&](auto t) QW_INLINE {
            unroll<ROWS>([&](auto r) QW_INLINE {
                acc[t][r] = mul_i32(load_u8_as_i32(unit.zeros + 16 * (first_tile + r)), set_i32(-parts[t].sum));
            });
        });
    } else {
        const int32_t zero = 1 << (weight.bits - 1);
        unroll<TOKENS>([&](auto t) QW_INLINE {
            unroll<ROWS>([&](auto r) QW_INLINE { acc[t][r] = set_i32(-zero * parts[t].sum); });
        });
    }
}

template <int TOKENS, int ROWS>
QW_INLINE inline void add_scaled(const I32 (&acc)[TOKENS][ROWS], const UnitScales& unit, const Part* parts,
                                 int first_tile, float* sums) {
    unroll<TOKENS>([&](auto t) QW_INLINE {
        unroll<ROWS>([&](auto r) QW_INLINE {
            float* place = sums + parts[t].token * PANEL + 16 * (first_tile + r);
            F32 value = mul(to_f32(acc[t][r]), load_f32(unit.scales + 16 * (first_tile + r)));
            store_f32(place, fma(value, set_f32(parts[t].scale), load_f32(place)));
        });
    });
}

// Codes as bytes, 4 inputs a row: the integer dot products of TOKENS tokens with a few tiles stay in registers.
template <int TOKENS, bool NIBBLES>
void add_unit_of_bytes(const PackedWeight& weight, const uint8_t* codes, const UnitScales& unit, const Part* parts,
                       float* sums, int64_t prefetch_ahead) {
    for (int tile = 0; tile < TILES; tile += TILE_ROWS) {
        I32 acc[TOKENS][TILE_ROWS];
        start_from_zeros(acc, weight, unit, parts, tile);
        const uint8_t* row = codes + 64 * tile;
        for (int k = 0; k < weight.unit; k += 4, row += ROW) {
            Bytes w[TILE_ROWS];
            unroll<TILE_ROWS>([&](auto r) QW_INLINE {
                w[r] = load_bytes(row + 64 * r);
                if (prefetch_ahead) prefetch(row + 64 * r + prefetch_ahead);
            });
            unroll<TOKENS>([&](auto t) QW_INLINE {
                Bytes x = broadcast4(parts[t].values + k);
                unroll<TILE_ROWS>([&](auto r) QW_INLINE {
                    acc[t][r] = NIBBLES ? dot4(acc[t][r], w[r], x) : dot8(acc[t][r], w[r], x);
                });
            });
        }
        add_scaled(acc, unit, parts, tile, sums);
    }
}

// Codes as nibbles, 8 inputs a row, straight from memory: decode. With few parts the even and the odd inputs have sums of
// their own, which halves the wait of one sum for the next.
template <int TOKENS>
void add_unit_of_nibbles(const PackedWeight& weight, const uint8_t* codes, const UnitScales& unit, const Part* parts,
                         float* sums) {
    constexpr bool TWO_CHAINS = TOKENS <= 2;
    for (int tile = 0; tile < TILES; tile += TILE_ROWS) {
        I32 acc[TOKENS][TILE_ROWS], odd[TOKENS][TILE_ROWS];
        start_from_zeros(acc, weight, unit, parts, tile);
        unroll<TOKENS>([&](auto t) QW_INLINE { unroll<TILE_ROWS>([&](auto r) QW_INLINE { odd[t][r] = set_i32(0); }); });
        const uint8_t* row = codes + 64 * tile;
        for (int k = 0; k < weight.unit; k += 8, row += ROW) {
            Bytes low[TILE_ROWS], high[TILE_ROWS];
            unroll<TILE_ROWS>([&](auto r) QW_INLINE {
                Bytes both = load_bytes(row + 64 * r);
                prefetch(row + 64 * r + PREFETCH_BYTES);
                low[r] = low_nibbles(both);
                high[r] = high_nibbles(both);
            });
            unroll<TOKENS>([&](auto t) QW_INLINE {
                Bytes x_even = broadcast4(parts[t].values + k), x_odd = broadcast4(parts[t].values + k + 4);
                unroll<TILE_ROWS>([&](auto r) QW_INLINE { acc[t][r] = dot4(acc[t][r], low[r], x_even); });
                unroll<TILE_ROWS>([&](auto r) QW_INLINE {
                    if constexpr (TWO_CHAINS) odd[t][r] = dot4(odd[t][r], high[r], x_odd);
                    else acc[t][r] = dot4(acc[t][r], high[r], x_odd);
                });
            });
        }
        if constexpr (TWO_CHAINS)
            unroll<TOKENS>([&](auto t) QW_INLINE {
                unroll<TILE_ROWS>([&](auto r) QW_INLINE { acc[t][r] = add_i32(acc[t][r], odd[t][r]); });
            });
        add_scaled(acc, unit, parts, tile, sums);
    }
}

// Nibbles -> bytes in the order of the rows of an 8-bit unit.
void unpack_nibbles(const uint8_t* codes, int unit, uint8_t* bytes) {
    for (int k = 0; k < unit; k += 8, codes += ROW, bytes += 2 * ROW)
        for (int offset = 0; offset < ROW; offset += 64) {
            Bytes both = load_bytes(codes + offset);
            prefetch(codes + offset + PREFETCH_BYTES);
            store_bytes(bytes + offset, low_nibbles(both));
            store_bytes(bytes + ROW + offset, high_nibbles(both));
        }
}

using BytesFunction = void (*)(const PackedWeight&, const uint8_t*, const UnitScales&, const Part*, float*, int64_t);
using NibblesFunction = void (*)(const PackedWeight&, const uint8_t*, const UnitScales&, const Part*, float*);

template <bool NIBBLES>
BytesFunction bytes_function(int64_t count) {
    static constexpr BytesFunction functions[] = {
        add_unit_of_bytes<1, NIBBLES>,
        add_unit_of_bytes<2, NIBBLES>,
        add_unit_of_bytes<3, NIBBLES>,
        add_unit_of_bytes<4, NIBBLES>,
        add_unit_of_bytes<TILE_TOKENS < 5 ? 1 : 5, NIBBLES>,  // never asked for where the tile is smaller
        add_unit_of_bytes<TILE_TOKENS < 6 ? 1 : 6, NIBBLES>,
    };
    return functions[count - 1];
}

NibblesFunction nibbles_function(int64_t count) {
    static constexpr NibblesFunction functions[] = {
        add_unit_of_nibbles<1>,
        add_unit_of_nibbles<2>,
        add_unit_of_nibbles<3>,
        add_unit_of_nibbles<4>,
    };
    return functions[count - 1];
}

UnitScales scales_of(const PackedWeight& weight, const uint8_t* codes) {
    UnitScales unit;
    const uint8_t* scales = codes + weight.codes_bytes();
    for (int i = 0; i < PANEL; i += 16)
        store_f32(unit.scales + i, load_f16(reinterpret_cast<const uint16_t*>(scales) + i));
    if (weight.has_zeros) std::memcpy(unit.zeros, scales + 2 * PANEL, PANEL);
    return unit;
}

// Adds the product of one unit with all parts to their tokens' sums, in tiles of nearly equal size.
void add_unit(const PackedWeight& weight, const uint8_t* codes, const Part* parts, int64_t count, float* sums) {
    const UnitScales unit = scales_of(weight, codes);
    if (weight.bits == 4 && count <= DIRECT_PARTS) return nibbles_function(count)(weight, codes, unit, parts, sums);
    alignas(64) uint8_t bytes[GROUP * PANEL];
    if (weight.bits == 4) unpack_nibbles(codes, weight.unit, bytes);
    const int64_t num_tiles = (count + TILE_TOKENS - 1) / TILE_TOKENS;
    for (int64_t tile = 0, done = 0; tile < num_tiles; tile++) {
        const int64_t size = (count - done) / (num_tiles - tile);
        if (weight.bits == 4) bytes_function<true>(size)(weight, bytes, unit, parts + done, sums, 0);
        else bytes_function<false>(size)(weight, codes, unit, parts + done, sums, tile == 0 ? PREFETCH_BYTES : 0);
        done += size;
    }
}

void store_row(const Output& y, int64_t token, int64_t start, int64_t count, const F32 (&values)[TILES]) {
    const int64_t at = token * y.stride + start;
    if (y.is_float) {
        float row[PANEL];
        for (int i = 0; i < TILES; i++) store_f32(row + 16 * i, values[i]);
        std::memcpy(static_cast<float*>(y.data) + at, row, 4 * count);
        return;
    }
    uint16_t row[PANEL], base[PANEL] = {};
    for (int i = 0; i < TILES; i++) store_bf16(row + 16 * i, values[i]);
    if (y.residual) {
        std::memcpy(base, y.residual + at, 2 * count);
        for (int i = 0; i < PANEL; i += 16) store_bf16(row + i, qw::add(load_bf16(base + i), load_bf16(row + i)));
    }
    std::memcpy(static_cast<uint16_t*>(y.data) + at, row, 2 * count);
}

int64_t outputs_of_panel(const PackedWeight& weight, int64_t panel) {
    const int64_t left = weight.num_outputs - panel * PANEL;
    return left < PANEL ? left : PANEL;
}

F32 with_bias(const PackedWeight& weight, int64_t output, F32 sum) {
    return weight.bias ? qw::add(sum, load_f32(weight.bias + output)) : sum;
}

// sums[m, 64] = the 64 outputs of a panel, without bias, for the tokens of a chunk.
void multiply_panel(const PackedWeight& weight, int64_t panel, const Activations& x, int64_t chunk, float* sums) {
    std::memset(sums, 0, size_t(x.chunk_size(chunk)) * PANEL * 4);
    const uint8_t* codes = weight.panels + panel * weight.panel_bytes();
    for (int64_t u = 0; u < weight.num_units(); u++, codes += weight.unit_bytes()) {
        const int64_t list = chunk * x.num_units() + u;
        add_unit(weight, codes, x.parts + list * x.parts_of_unit(), x.num_parts[list], sums);
    }
}

// Calls body(panel, chunk) for every panel of outputs and every chunk of tokens, on all threads.
template <class Body>
void for_panels(const PackedWeight& weight, const Activations& x, const Body& body) {
    // Helpings of neighbouring panels, so that a thread reads on in memory: large ones first, and in the end single panels,
    // so that the threads end together.
    std::vector<int64_t> ends;
    for (int64_t done = 0; done < weight.num_panels();) {
        const int64_t helping = (weight.num_panels() - done) / (2 * num_threads());
        ends.push_back(done += helping > 1 ? helping : 1);
    }
    const int64_t helpings = ends.size();
    parallel_for(x.num_chunks() * helpings, [&](int64_t task) {
        const int64_t i = task % helpings;
        for (int64_t panel = i ? ends[i - 1] : 0; panel < ends[i]; panel++) body(panel, task / helpings);
    });
}

float* sums_of_thread(const Activations& x, int64_t chunk, int count) {
    return static_cast<float*>(thread_scratch(count * x.chunk_size(chunk) * PANEL * 4));
}

}  // namespace

void quantized_linear(const PackedWeight& weight, const Activations& x, const Output& y) {
    for_panels(weight, x, [&](int64_t panel, int64_t chunk) {
        float* sums = sums_of_thread(x, chunk, 1);
        multiply_panel(weight, panel, x, chunk, sums);
        for (int64_t t = 0; t < x.chunk_size(chunk); t++) {
            F32 row[TILES];
            for (int i = 0; i < TILES; i++)
                row[i] = with_bias(weight, panel * PANEL + 16 * i, load_f32(sums + t * PANEL + 16 * i));
            store_row(y, chunk * CHUNK_TOKENS + t, panel * PANEL, outputs_of_panel(weight, panel), row);
        }
    });
}

void quantized_swiglu(const PackedWeight& up, const PackedWeight& gate, const Activations& x, uint16_t* h, int64_t stride) {
    const Output out{h, stride, false, nullptr};
    for_panels(up, x, [&](int64_t panel, int64_t chunk) {
        float* up_sums = sums_of_thread(x, chunk, 2);
        float* gate_sums = up_sums + x.chunk_size(chunk) * PANEL;
        multiply_panel(up, panel, x, chunk, up_sums);
        multiply_panel(gate, panel, x, chunk, gate_sums);
        for (int64_t t = 0; t < x.chunk_size(chunk); t++) {
            F32 row[TILES];
            for (int i = 0; i < TILES; i++) {
                const int64_t at = t * PANEL + 16 * i, output = panel * PANEL + 16 * i;
                // Through bf16, as the two linears would store them: the same bits as the composed layers.
                uint16_t rounded[2][16];
                store_bf16(rounded[0], with_bias(up, output, load_f32(up_sums + at)));
                store_bf16(rounded[1], with_bias(gate, output, load_f32(gate_sums + at)));
                row[i] = mul(load_bf16(rounded[0]), silu(load_bf16(rounded[1])));
            }
            store_row(out, chunk * CHUNK_TOKENS + t, panel * PANEL, outputs_of_panel(up, panel), row);
        }
    });
}

}  // namespace qw
