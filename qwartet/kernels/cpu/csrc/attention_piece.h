// The arithmetic of attention on a piece of the cache: the keys, or the values, of KEYS tokens in one head.
#pragma once
#include <cstdint>
#include <cstring>

#include "cache_layer.h"
#include "hadamard.h"
#include "simd.h"
#include "unroll.h"

namespace qw {

constexpr int64_t CHUNK = 512;   // keys of one softmax; also the stride of a row's weights
constexpr int TILE = 12;         // query rows that share the keys and values read; a row is a head of a token
constexpr int KEYS = 16;         // keys of one vector of scores

// Query rows of a tile, ready for the dot products with any kind of key: those of one kv head after those of another.
struct Queries {
    int count;
    int rows_of_head;
    int64_t num_keys[TILE];  // how many of the first keys each row sees
    alignas(64) uint16_t bf16[TILE][MAX_HEAD_DIM];
    alignas(64) int8_t high[TILE][MAX_HEAD_DIM];  // q's transform ~ scale * (256 high + low), for keys in codes
    alignas(64) int8_t low[TILE][MAX_HEAD_DIM];
    int32_t offset[TILE];  // SIGNED_OFFSET * sum of (256 high + low)
    float scale[TILE];

    void set(int row, const uint16_t* query, int dim, int bits) {
        std::memcpy(bf16[row], query, 2 * dim);
        if (bits == 16) return;
        alignas(64) float wide[MAX_HEAD_DIM];
        for (int d = 0; d < dim; d += 16) store_f32(wide + d, load_bf16(query + d));
        hadamard(wide, dim);  // as the keys are: q . k is unchanged
        F32 most = set_f32(0);
        for (int d = 0; d < dim; d += 16) {
            F32 part = load_f32(wide + d);
            most = max(most, max(part, sub(set_f32(0), part)));
        }
        const float largest = reduce_max(most), inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
        scale[row] = largest / (127.0f * 256.0f);
        int32_t sum = 0;
        for (int d = 0; d < dim; d += 16) {
            F32 scaled = mul(load_f32(wide + d), set_f32(inverse)), whole = round(scaled);
            const F32 rest = mul(sub(scaled, whole), set_f32(256));
            I32 coarse = round_to_i32(whole), fine = round_to_i32(max(min(rest, set_f32(127)), set_f32(-127)));
            store_i8(high[row] + d, coarse, false);
            store_i8(low[row] + d, fine, false);
            sum += 256 * reduce_add_i32(coarse) + reduce_add_i32(fine);
        }
        offset[row] = SIGNED_OFFSET * sum;
    }
};

// The blocks of a request are scattered, so the hardware prefetcher cannot predict the next ones. For every line that
// is read, prefetching the one `ahead` bytes further keeps the memory as busy as the arithmetic; all at once they would
// queue up.
QW_INLINE inline void fetch(const void* p, int64_t ahead) { prefetch(static_cast<const char*>(p) + ahead); }

// The codes of a 4-bit piece, a byte each.
inline void unpack(const uint8_t* piece, int dim, int64_t ahead, int8_t* codes) {
    for (int i = 0; i < KEYS * dim / 2; i += 32) {
        if (i % 64 == 0) fetch(piece + i, ahead);
        store_bytes(codes + 2 * i, load_nibbles(piece + i));
    }
}

// 16 scores of each row, unscaled, against contiguous keys; the first rows of a tile prefetch.
template <int ROWS, bool FETCHES>
inline void scores_of_bf16(const uint16_t (*queries)[MAX_HEAD_DIM], const uint16_t* keys, int dim, int64_t ahead,
                           F32* scores) {
    F32 sums[ROWS][KEYS];
    unroll<KEYS / SCORE_KEYS>([&](auto part) QW_INLINE {
        F32 held[ROWS][SCORE_KEYS];
        unroll<ROWS>([&](auto r) QW_INLINE {
            unroll<SCORE_KEYS>([&](auto j) QW_INLINE { held[r][j] = set_f32(0); });
        });
        const uint16_t* first = keys + part * SCORE_KEYS * dim;
        for (int d = 0; d < dim; d += 32) {
            Bf16 query[ROWS];
            unroll<ROWS>([&](auto r) QW_INLINE { query[r] = load_bf16_pairs(queries[r] + d); });
            unroll<SCORE_KEYS>([&](auto j) QW_INLINE {
                if constexpr (FETCHES) fetch(first + j * dim + d, ahead);
                const Bf16 key = load_bf16_pairs(first + j * dim + d);
                unroll<ROWS>([&](auto r) QW_INLINE { held[r][j] = dot_bf16(held[r][j], key, query[r]); });
            });
        }
        unroll<ROWS>([&](auto r) QW_INLINE {
            unroll<SCORE_KEYS>([&](auto j) QW_INLINE { sums[r][part * SCORE_KEYS + j] = held[r][j]; });
        });
    });
    unroll<ROWS>([&](auto r) QW_INLINE { scores[r] = reduce_rows(sums[r]); });
}

// 64 bytes of a head, or as many as there are; the rest is 0.
QW_INLINE inline Bytes load_head(const void* p, int count) {
    if (count >= 64) [[likely]] return load_bytes(p);
    alignas(64) uint8_t part[64] = {};
    std::memcpy(part, p, count);
    return load_bytes(part);
}

template <bool FETCHES>
inline F32 scores_of_int8(const Queries& queries, int row, const int8_t* keys, const float* key_scales, int dim,
                          int64_t ahead) {
    I32 rows[KEYS];
    for (int first = 0; first < KEYS; first += SCORE_KEYS, keys += SCORE_KEYS * dim) {
        FixedSum sums[SCORE_KEYS];
        unroll<SCORE_KEYS>([&](auto j) QW_INLINE { sums[j].start(); });
        for (int d = 0; d < dim; d += 64) {
            const Bytes high = load_head(queries.high[row] + d, dim - d), low = load_head(queries.low[row] + d, dim - d);
            unroll<SCORE_KEYS>([&](auto j) QW_INLINE {
                if constexpr (FETCHES) fetch(keys + j * dim + d, ahead);
                sums[j].add(load_head(keys + j * dim + d, dim - d), high, low);
            });
        }
        unroll<SCORE_KEYS>([&](auto j) QW_INLINE { rows[first + j] = sums[j].total(); });
    }
    I32 sums = add_i32(reduce_rows_i32(rows), set_i32(-queries.offset[row]));
    return mul(mul(to_f32(sums), set_f32(queries.scale[row])), load_f32(key_scales));
}

// Values in a cache, and floats made from them.
template <class Value>
struct Values {
    const Value* values;
    int64_t ahead;  // bytes
    F32 load(int64_t at) const {
        if constexpr (sizeof(Value) == 4) return load_f32(values + at);
        else if constexpr (sizeof(Value) == 2) return load_bf16(values + at);
        else return load_i8(values + at);
    }
    // Prefetches the line that corresponds to `at`, if `at` begins one.
    QW_INLINE void fetch_line(int64_t at) const {
        if constexpr (sizeof(Value) < 4)
            if (at * sizeof(Value) % 64 == 0) fetch(values + at, ahead);
    }
};

// sums[r, d] += sum over j of weights[r, j] * values[j, d], key after key, for PARTS vectors from d on.
template <int ROWS, int PARTS, class Value>
inline void add_values(const Values<Value>& values, int count, int dim, int d, const float* weights, float* sums) {
    F32 acc[ROWS][PARTS];
    const auto place = [&](int r, int i) QW_INLINE { return sums + r * dim + d + 16 * i; };
    unroll<ROWS>([&](auto r) QW_INLINE { unroll<PARTS>([&](auto i) QW_INLINE { acc[r][i] = load_f32(place(r, i)); }); });
    for (int j = 0; j < count; j++) {
        F32 value[PARTS];
        unroll<PARTS>([&](auto i) QW_INLINE {
            const int64_t at = int64_t(j) * dim + d;
            if (16 * i % (64 / sizeof(values.values[0])) == 0) values.fetch_line(at + 16 * i);
            value[i] = values.load(at + 16 * i);
        });
        unroll<ROWS>([&](auto r) QW_INLINE {
            const F32 weight = set_f32(weights[r * CHUNK + j]);
            unroll<PARTS>([&](auto i) QW_INLINE { acc[r][i] = fma(weight, value[i], acc[r][i]); });
        });
    }
    unroll<ROWS>([&](auto r) QW_INLINE { unroll<PARTS>([&](auto i) QW_INLINE { store_f32(place(r, i), acc[r][i]); }); });
}

template <int ROWS, class Value>
inline void add_all_values(const Values<Value>& values, int count, int dim, const float* weights, float* sums) {
    int d = 0;
    for (; d + 16 * VALUE_PARTS <= dim; d += 16 * VALUE_PARTS)
        add_values<ROWS, VALUE_PARTS>(values, count, dim, d, weights, sums);
    for (; d < dim; d += 16) add_values<ROWS, 1>(values, count, dim, d, weights, sums);
}

}  // namespace qw
