#include "quantized_linear.h"

#include <array>
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

// The data of one panel unit besides its codes.
struct UnitScales {
    alignas(64) float scales[PANEL];
    alignas(64) uint8_t zeros[PANEL];
};

// -zero * sum(x): the correction of the bare codes' product for the weights' zero.
QW_INLINE inline I32 start_from_zeros(const PackedWeight& weight, const UnitScales& unit, const Part& part, int tile) {
    if (weight.has_zeros) return mul_i32(load_u8_as_i32(unit.zeros + 16 * tile), set_i32(-part.sum));
    return set_i32(-(1 << (weight.bits - 1)) * part.sum);
}

QW_INLINE inline void add_scaled(I32 acc, const UnitScales& unit, const Part& part, int tile, float* sums) {
    float* place = sums + part.token * PANEL + 16 * tile;
    F32 value = mul(to_f32(acc), load_f32(unit.scales + 16 * tile));
    store_f32(place, fma(value, set_f32(part.scale), load_f32(place)));
}

// A row of codes is multiplied in planes, each by 4 bytes of activations.
template <int BITS>
constexpr int PLANES = BITS == 4 ? 2 : PLANES_OF_BYTES;
template <int BITS>
constexpr int PART_BYTES = GROUP * (BITS == 8 ? PLANES_OF_BYTES : 1);

template <int BITS, int PLANE>
QW_INLINE inline Bytes plane(Bytes row) {
    if constexpr (BITS == 8) return byte_plane<PLANE>(row);
    else return PLANE == 0 ? low_nibbles(row) : high_nibbles(row);
}

// The product of one unit with PARTS parts, ROWS tiles of 16 outputs at a time: PARTS x ROWS vectors of sums stay in
// registers. With few parts each plane may have sums of its own, which halves the dependency chain. IS_APART: the
// planes of a row are stored in the order in which they are multiplied (take_apart).
template <int BITS, bool IS_APART, int PARTS, int ROWS>
void add_unit_tile(const PackedWeight& weight, const uint8_t* codes, const UnitScales& unit, const int8_t* values,
                   const Part* parts, float* sums) {
    constexpr bool TWO_CHAINS = PARTS <= CHAINED_PARTS;
    constexpr int INPUTS = BITS == 4 ? 8 : 4, HELD_ROWS = Sum<BITS>::HELD_ROWS;  // inputs of a row of codes
    for (int tile = 0; tile < TILES; tile += ROWS) {
        Sum<BITS> acc[PARTS][ROWS], other[PARTS][ROWS];
        unroll<PARTS>([&](auto t) QW_INLINE {
            unroll<ROWS>([&](auto r) QW_INLINE {
                acc[t][r].total = start_from_zeros(weight, unit, parts[t], tile + r);
                other[t][r].total = set_i32(0);
            });
        });
        const uint8_t* row = codes + 64 * tile;
        const int8_t* x = values;
        for (int k = 0; k < weight.unit; k += HELD_ROWS * INPUTS) {
            unroll<HELD_ROWS>([&](auto i) QW_INLINE {
                Bytes bytes[ROWS];
                if constexpr (!IS_APART)
                    unroll<ROWS>([&](auto r) QW_INLINE {
                        bytes[r] = opaque(load_bytes(row + 64 * r));  // read once, in this order
                        prefetch_weights(row + 64 * r);
                    });
                unroll<PLANES<BITS>>([&](auto p) QW_INLINE {
                    Bytes w[ROWS];
                    unroll<ROWS>([&](auto r) QW_INLINE {
                        w[r] = IS_APART ? load_bytes(row + ROW * p + 64 * r) : plane<BITS, p>(bytes[r]);
                    });
                    unroll<PARTS>([&](auto t) QW_INLINE {
                        const Bytes four = broadcast4(x + t * PART_BYTES<BITS> + 4 * p);
                        unroll<ROWS>([&](auto r) QW_INLINE {
                            auto& sum = (TWO_CHAINS && p == 1 ? other : acc)[t][r];
                            sum.template add<i == 0 && (p == 0 || TWO_CHAINS)>(w[r], four);
                        });
                    });
                });
                row += IS_APART ? PLANES<BITS> * ROW : ROW, x += 4 * PLANES<BITS>;
            });
            unroll<PARTS>([&](auto t) QW_INLINE {
                unroll<ROWS>([&](auto r) QW_INLINE {
                    acc[t][r].flush();
                    if constexpr (TWO_CHAINS) other[t][r].flush();
                });
            });
        }
        unroll<PARTS>([&](auto t) QW_INLINE {
            unroll<ROWS>([&](auto r) QW_INLINE {
                const I32 total = TWO_CHAINS ? add_i32(acc[t][r].total, other[t][r].total) : acc[t][r].total;
                add_scaled(total, unit, parts[t], tile + r, sums);
            });
        });
    }
}

using TileFunction = void (*)(const PackedWeight&, const uint8_t*, const UnitScales&, const int8_t*, const Part*, float*);

// Few parts take as many outputs as possible at once, so that the weights stream; many parts share fewer outputs, so
// that the weights are unpacked less often.
template <int BITS, bool IS_APART, int PARTS>
constexpr TileFunction tile_function = add_unit_tile<BITS, IS_APART, PARTS, tiles_at_once(PARTS)>;

template <int BITS, bool IS_APART, int... I>
constexpr std::array<TileFunction, sizeof...(I)> tile_functions(std::integer_sequence<int, I...>) {
    return {tile_function<BITS, IS_APART, I + 1>...};
}

template <int BITS, bool IS_APART>
constexpr auto TILE_FUNCTIONS = tile_functions<BITS, IS_APART>(std::make_integer_sequence<int, most_parts(BITS)>{});

UnitScales scales_of(const PackedWeight& weight, const uint8_t* codes) {
    UnitScales unit;
    const uint8_t* scales = codes + weight.codes_bytes();
    for (int i = 0; i < PANEL; i += 16)
        store_f32(unit.scales + i, load_f16(reinterpret_cast<const uint16_t*>(scales) + i));
    if (weight.has_zeros) std::memcpy(unit.zeros, scales + 2 * PANEL, PANEL);
    return unit;
}

// The codes of a unit, plane after plane of each row: for many parts, which would otherwise each unpack them again.
template <int BITS>
void take_apart(const PackedWeight& weight, const uint8_t* codes, uint8_t* apart) {
    for (const uint8_t* end = codes + weight.codes_bytes(); codes < end; codes += ROW, apart += PLANES<BITS> * ROW)
        unroll<TILES>([&](auto tile) QW_INLINE {
            const Bytes bytes = load_bytes(codes + 64 * tile);
            prefetch_weights(codes + 64 * tile);
            unroll<PLANES<BITS>>([&](auto p) QW_INLINE { store_bytes(apart + ROW * p + 64 * tile, plane<BITS, p>(bytes)); });
        });
}

// Adds the product of one unit with all parts to their tokens' sums, in tiles of nearly equal size.
template <int BITS>
void add_unit(const PackedWeight& weight, const uint8_t* codes, const int8_t* values, const Part* parts, int64_t count,
              float* sums) {
    const UnitScales unit = scales_of(weight, codes);
    const TileFunction* functions = TILE_FUNCTIONS<BITS, false>.data();
    alignas(64) uint8_t apart[GROUP * PANEL * BITS / 8 * PLANES<BITS>];
    if (PLANES<BITS> > 1 && count >= TAKEN_APART_FROM) {
        take_apart<BITS>(weight, codes, apart);
        codes = apart, functions = TILE_FUNCTIONS<BITS, true>.data();
    }
    const int64_t num_tiles = (count + most_parts(BITS) - 1) / most_parts(BITS);
    for (int64_t tile = 0, done = 0; tile < num_tiles; tile++) {
        const int64_t size = (count - done) / (num_tiles - tile);
        functions[size - 1](weight, codes, unit, values + done * PART_BYTES<BITS>, parts + done, sums);
        done += size;
    }
}

void store_row(const Output& y, int64_t token, int64_t start, int64_t count, const F32 (&values)[TILES]) {
    const int64_t at = token * y.stride + start;
    uint16_t rounded[PANEL];
    float row[PANEL] = {};
    for (int i = 0; i < TILES; i++) store_bf16(rounded + 16 * i, values[i]);
    if (y.how == Store::BF16) {
        std::memcpy(static_cast<uint16_t*>(y.data) + at, rounded, 2 * count);
        return;
    }
    float* place = static_cast<float*>(y.data) + at;
    if (y.how == Store::ADD_ROUNDED) std::memcpy(row, place, 4 * count);
    for (int i = 0; i < TILES; i++) {
        const bool adds = y.how == Store::ADD_ROUNDED;
        store_f32(row + 16 * i, adds ? qw::add(load_f32(row + 16 * i), load_bf16(rounded + 16 * i)) : values[i]);
    }
    std::memcpy(place, row, 4 * count);
}

int64_t outputs_of_panel(const PackedWeight& weight, int64_t panel) {
    const int64_t left = weight.num_outputs - panel * PANEL;
    return left < PANEL ? left : PANEL;
}

F32 with_bias(const PackedWeight& weight, int64_t output, F32 sum) {
    return weight.bias ? qw::add(sum, load_f32(weight.bias + output)) : sum;
}

// sums[m, 64] = the 64 outputs of a panel, without bias, for the tokens of a chunk.
void multiply_panel(const PackedWeight& weight, int64_t panel, const Activations& x, int64_t chunk, const LowProducts& added,
                    float* sums) {
    std::memset(sums, 0, size_t(x.chunk_size(chunk)) * PANEL * 4);
    const uint8_t* codes = weight.panels + panel * weight.panel_bytes();
    const int units_of_group = GROUP / weight.unit;
    const auto add = weight.bits == 4 ? add_unit<4> : add_unit<8>;
    for (int64_t u = 0; u < weight.num_units(); u++, codes += weight.unit_bytes()) {
        const int64_t group = u / units_of_group;
        added.prefetch_panel(panel, u, weight.num_units());
        const int8_t* values = x.values_of(chunk, group) + u % units_of_group * weight.unit * x.value_bytes;
        add(weight, codes, values, x.parts_of(chunk, u), x.num_parts[chunk * x.num_groups + group], sums);
    }
    added.add(panel, chunk * CHUNK_TOKENS, x.chunk_size(chunk), sums);
}

// Calls body(panel, chunk) for every panel of outputs and every chunk of tokens, on all threads.
template <class Body>
void for_panels(const PackedWeight& weight, const Activations& x, const Body& body) {
    // Threads take progressively smaller chunks of neighbouring panels, so that each reads contiguous memory: large
    // ones first, single panels at the end, so that the threads finish together.
    std::vector<int64_t> ends;
    for (int64_t done = 0; done < weight.num_panels();) {
        const int64_t helping = (weight.num_panels() - done) / num_threads();
        ends.push_back(done += helping > 1 ? helping : 1);
    }
    const int64_t helpings = ends.size();
    parallel_for(x.num_chunks() * helpings, [&](int64_t task) {
        const int64_t i = task % helpings;
        for (int64_t panel = i ? ends[i - 1] : 0; panel < ends[i]; panel++) body(panel, task / helpings);
    });
}

float* sums_of_thread(const Activations& x, int64_t chunk, int count) {
    return static_cast<float*>(thread_scratch(sums_bytes(x.chunk_size(chunk), count)));
}

}  // namespace

int64_t sums_bytes(int64_t num_tokens, int count) {
    return 4 * PANEL * count * (num_tokens < CHUNK_TOKENS ? num_tokens : CHUNK_TOKENS);
}

void quantized_linear(const PackedWeight& weight, const Activations& x, const Output& y, const LowProducts& added) {
    for_panels(weight, x, [&](int64_t panel, int64_t chunk) {
        float* sums = sums_of_thread(x, chunk, 1);
        multiply_panel(weight, panel, x, chunk, added, sums);
        for (int64_t t = 0; t < x.chunk_size(chunk); t++) {
            F32 row[TILES];
            for (int i = 0; i < TILES; i++)
                row[i] = with_bias(weight, panel * PANEL + 16 * i, load_f32(sums + t * PANEL + 16 * i));
            store_row(y, chunk * CHUNK_TOKENS + t, panel * PANEL, outputs_of_panel(weight, panel), row);
        }
    });
}

void quantized_swiglu(const PackedWeight& up, const PackedWeight& gate, const Activations& x, uint16_t* h, int64_t stride,
                      const LowProducts& added_to_up, const LowProducts& added_to_gate) {
    const Output out{h, stride, Store::BF16};
    for_panels(up, x, [&](int64_t panel, int64_t chunk) {
        float* up_sums = sums_of_thread(x, chunk, 2);
        float* gate_sums = up_sums + x.chunk_size(chunk) * PANEL;
        multiply_panel(up, panel, x, chunk, added_to_up, up_sums);
        multiply_panel(gate, panel, x, chunk, added_to_gate, gate_sums);
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
