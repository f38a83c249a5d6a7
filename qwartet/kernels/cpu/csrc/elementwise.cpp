#include "elementwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "exponential.h"
#include "simd.h"
#include "thread_pool.h"

namespace qw {
namespace {

constexpr int64_t ROWS_OF_TASK = 8;

// Calls body(token) for every token, several to a task.
template <class Body>
void for_tokens(int64_t num_tokens, const Body& body) {
    parallel_for((num_tokens + ROWS_OF_TASK - 1) / ROWS_OF_TASK, [&](int64_t task) {
        for (int64_t t = task * ROWS_OF_TASK; t < (task + 1) * ROWS_OF_TASK && t < num_tokens; t++) body(t);
    });
}

// Loads or stores up to 16 values; beyond `count`, loads give 0 and stores write nothing.
F32 load_all(const uint16_t* p) { return load_bf16(p); }
F32 load_all(const float* p) { return load_f32(p); }
template <class T>
F32 load_some(const T* p, int64_t count) {
    if (count >= 16) return load_all(p);
    T part[16] = {};
    std::memcpy(part, p, sizeof(T) * count);
    return load_all(part);
}
void store_some(uint16_t* p, F32 a, int64_t count) {
    if (count >= 16) return store_bf16(p, a);
    uint16_t part[16];
    store_bf16(part, a);
    std::memcpy(p, part, 2 * count);
}
F32 rounded(F32 a) {
    uint16_t bits[16];
    store_bf16(bits, a);
    return load_bf16(bits);
}

// x / sqrt(mean(x^2) + eps) * weight in place, rounded once.
void norm_head(uint16_t* head, const uint16_t* weight, float eps, int dim) {
    F32 squares = set_f32(0);
    for (int d = 0; d < dim; d += 16) {
        F32 value = load_bf16(head + d);
        squares = fma(value, value, squares);
    }
    const F32 inverse = set_f32(1.0f / std::sqrt(reduce_add(squares) / float(dim) + eps));
    for (int d = 0; d < dim; d += 16) store_bf16(head + d, mul(mul(load_bf16(head + d), inverse), load_bf16(weight + d)));
}

// (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) for the two halves of the rotated part of a head.
void rotate(uint16_t* head, const float* cos, const float* sin, int half) {
    for (int i = 0; i < half; i += 16) {
        F32 first = load_bf16(head + i), second = load_bf16(head + half + i), c = load_f32(cos + i), s = load_f32(sin + i);
        store_bf16(head + i, sub(mul(first, c), mul(second, s)));
        store_bf16(head + half + i, add(mul(second, c), mul(first, s)));
    }
}

void scale_head(uint16_t* head, float factor, int dim) {
    F32 scale = rounded(set_f32(factor));
    for (int d = 0; d < dim; d += 16) store_bf16(head + d, mul(load_bf16(head + d), scale));
}

}  // namespace

void embed(const int32_t* ids, const uint16_t* table, int64_t num_tokens, int64_t size, float* x) {
    for_tokens(num_tokens, [&](int64_t t) {
        for (int64_t i = 0; i < size; i++) {
            const uint32_t bits = uint32_t(table[ids[t] * size + i]) << 16;
            std::memcpy(x + t * size + i, &bits, 4);
        }
    });
}

void rms_norm(const float* x, const uint16_t* weight, float eps, int64_t num_tokens, int64_t size, uint16_t* y) {
    for_tokens(num_tokens, [&](int64_t t) {
        const float* row = x + t * size;
        F32 squares = set_f32(0);
        for (int64_t i = 0; i < size; i += 16) {
            F32 value = load_some(row + i, size - i);
            squares = fma(value, value, squares);
        }
        const F32 inverse = set_f32(1.0f / std::sqrt(reduce_add(squares) / float(size) + eps));
        for (int64_t i = 0; i < size; i += 16) {
            F32 normal = mul(load_some(row + i, size - i), inverse);
            store_some(y + t * size + i, mul(normal, load_some(weight + i, size - i)), size - i);
        }
    });
}

void silu_mul(const uint16_t* up, const uint16_t* gate, int64_t count, uint16_t* h) {
    constexpr int64_t VALUES_OF_TASK = 1 << 14;
    parallel_for((count + VALUES_OF_TASK - 1) / VALUES_OF_TASK, [&](int64_t task) {
        const int64_t begin = task * VALUES_OF_TASK, end = std::min(begin + VALUES_OF_TASK, count);
        for (int64_t i = begin; i < end; i += 16)
            store_some(h + i, mul(load_some(up + i, end - i), silu(load_some(gate + i, end - i))), end - i);
    });
}

void rotate_and_store(uint16_t* qkv, int64_t num_tokens, int32_t num_heads, const HeadNorms& norms, const Rotation& rotation,
                      const CacheLayer& cache) {
    const int dim = cache.head_dim, half = rotation.rotary_dim / 2, num_kv_heads = cache.num_kv_heads;
    for_tokens(num_tokens, [&](int64_t t) {
        const float* cos = rotation.cos + int64_t(rotation.rope_index[t]) * half;
        const float* sin = rotation.sin + int64_t(rotation.rope_index[t]) * half;
        uint16_t* head = qkv + t * int64_t(num_heads + 2 * num_kv_heads) * dim;
        for (int h = 0; h < num_heads; h++, head += dim) {
            if (norms.query) norm_head(head, norms.query, norms.eps, dim);
            rotate(head, cos, sin, half);
            if (rotation.query_scale) scale_head(head, rotation.query_scale[t], dim);
        }
        for (int h = 0; h < num_kv_heads; h++, head += dim) {
            if (norms.key) norm_head(head, norms.key, norms.eps, dim);
            rotate(head, cos, sin, half);
            store_key(cache, rotation.slot_mapping[t], h, head);
        }
        for (int h = 0; h < num_kv_heads; h++, head += dim)
            store_value(cache, rotation.slot_mapping[t], h, head);
    });
}

}  // namespace qw
