#include "cache_layer.h"

#include <cstring>

#include "hadamard.h"
#include "simd.h"

namespace qw {
namespace {

// Codes of x [dim] up to `largest_code`, and the scale, which is NaN if a value is NaN or infinite.
float quantize_head(const float* x, int dim, float largest_code, int8_t* codes) {
    F32 most = set_f32(0), nothing = set_f32(0);
    for (int d = 0; d < dim; d += 16) {
        F32 part = load_f32(x + d);
        most = max(most, max(part, sub(set_f32(0), part)));
        nothing = fma(part, set_f32(0), nothing);  // NaN after a NaN or an infinity: it must not vanish in the codes
    }
    const float largest = reduce_max(most) + reduce_add(nothing);
    const float inverse = largest > 1e-30f ? largest_code / largest : 0.0f;
    F32 squares = set_f32(0), products = set_f32(0);
    for (int d = 0; d < dim; d += 16) {
        const F32 steps = mul(load_f32(x + d), set_f32(inverse));
        const I32 code = round_to_i32(steps);
        store_i8(codes + d, code, false);
        squares = fma(steps, steps, squares);
        products = fma(steps, to_f32(code), products);
    }
    // In units of the step, whose squares cannot overflow; 0 / 0 in a head of zeros.
    const float stretch = inverse == 0 ? 1 : reduce_add(squares) / reduce_add(products);
    return largest / largest_code * stretch;
}

void pack_nibbles(const int8_t* codes, int dim, uint8_t* bytes) {
    for (int first = 0; first < dim; first += 32)
        for (int i = 0; i < 16; i++)
            *bytes++ = uint8_t((codes[first + i] + 8) | (codes[first + 16 + i] + 8) << 4);
}

void store_head(const CacheLayer& cache, void* data, float* scales, int64_t slot, int64_t head, const uint16_t* x) {
    const int dim = cache.head_dim;
    const int64_t at = cache.at(slot / cache.block_size, head, slot % cache.block_size);
    uint8_t* place = static_cast<uint8_t*>(data) + cache.bytes(at);
    if (cache.bits == 16) {
        std::memcpy(place, x, 2 * dim);
        return;
    }
    alignas(64) float wide[MAX_HEAD_DIM];
    for (int d = 0; d < dim; d += 16) store_f32(wide + d, load_bf16(x + d));
    hadamard(wide, dim);
    if (cache.bits == 8) {
        scales[at / dim] = quantize_head(wide, dim, 127, reinterpret_cast<int8_t*>(place));
        return;
    }
    int8_t codes[MAX_HEAD_DIM];
    scales[at / dim] = quantize_head(wide, dim, 7, codes);
    pack_nibbles(codes, dim, place);
}

}  // namespace

void store_key(const CacheLayer& cache, int64_t slot, int64_t head, const uint16_t* x) {
    store_head(cache, cache.keys, cache.key_scales, slot, head, x);
}

void store_value(const CacheLayer& cache, int64_t slot, int64_t head, const uint16_t* x) {
    store_head(cache, cache.values, cache.value_scales, slot, head, x);
}

}  // namespace qw
