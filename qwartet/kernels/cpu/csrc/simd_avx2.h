// The operations of simd_scalar.h in AVX2 with FMA and F16C: two registers each.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "unroll.h"

namespace qw {

constexpr const char* ISA_NAME = "avx2";
// 5 x 2 registers of 16-bit sums, or 6 x 2 of 32 bits, 2 of codes, an activation and a product.
constexpr int most_parts(int bits) { return bits == 4 ? 5 : 6; }
constexpr int64_t TAKEN_APART_FROM = 64;
constexpr int PLANES_OF_BYTES = 2;
constexpr int tiles_at_once(int parts) { return parts == 1 ? 4 : parts == 2 ? 2 : 1; }
constexpr int CHAINED_PARTS = 0;
constexpr int SCORE_KEYS = 4;
constexpr int SCORE_ROWS = 1;
constexpr int VALUE_ROWS = 1;
constexpr int VALUE_PARTS = 4;
constexpr int DENSE_ROWS = 2;
constexpr int DENSE_TOKENS = 2;
constexpr int GRADIENT_ROWS = 6;
constexpr int GRADIENT_VECTORS = 1;
constexpr bool FAST_BF16 = false;
constexpr int PRODUCT_ROWS = 6;
constexpr int PRODUCT_VECTORS = 1;

struct F32 { __m256 lo, hi; };
struct I32 { __m256i lo, hi; };
struct Bytes { __m256i lo, hi; };
struct Bf16 { __m256i lo, hi; };

inline __m256i load256(const void* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline __m128i load128(const void* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline __m256 widen_bf16(__m128i a) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a), 16)); }

inline F32 set_f32(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline F32 load_f32(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store_f32(float* p, F32 a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
inline F32 load_bf16(const uint16_t* p) { return {widen_bf16(load128(p)), widen_bf16(load128(p + 8))}; }
inline F32 load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128(p + 8))}; }
inline F32 load_i8(const int8_t* p) {
    __m128i bytes = load128(p);
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline __m256i round_bf16(__m256 a) {
    __m256i bits = _mm256_castps_si256(a), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
}
inline void store_bf16(uint16_t* p, F32 a) {
    __m256i packed = _mm256_packus_epi32(round_bf16(a.lo), round_bf16(a.hi));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
inline F32 add(F32 a, F32 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F32 sub(F32 a, F32 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F32 mul(F32 a, F32 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F32 div(F32 a, F32 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
inline F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline F32 round(F32 a) {
    constexpr int NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.lo, NEAREST), _mm256_round_ps(a.hi, NEAREST)};
}
// 2^n by the exponent field, in two steps so that n down to -252 does not wrap.
inline __m256 power_of_2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
inline __m256 scale_half(__m256 a, __m256 n) {
    __m256i whole = _mm256_cvtps_epi32(n), first = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(a, power_of_2(first)), power_of_2(_mm256_sub_epi32(whole, first)));
}
inline F32 scale_by_power_of_2(F32 a, F32 n) { return {scale_half(a.lo, n.lo), scale_half(a.hi, n.hi)}; }

template <int DISTANCE>
inline F32 swap_lanes(F32 a) {
    if constexpr (DISTANCE == 8) return {a.hi, a.lo};
    if constexpr (DISTANCE == 4) return {_mm256_permute2f128_ps(a.lo, a.lo, 1), _mm256_permute2f128_ps(a.hi, a.hi, 1)};
    constexpr int ORDER = DISTANCE == 2 ? 0x4e : 0xb1;
    return {_mm256_permute_ps(a.lo, ORDER), _mm256_permute_ps(a.hi, ORDER)};
}

inline float reduce_add(F32 a) {
    __m256 eight = _mm256_add_ps(a.lo, a.hi);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// Eight rows -> one vector of their sums: neighbours are added until each half holds four sums of half rows.
inline __m256 reduce_eight(const F32* rows) {
    __m256 two[4];
    for (int i = 0; i < 4; i++)
        two[i] = _mm256_hadd_ps(_mm256_add_ps(rows[2 * i].lo, rows[2 * i].hi),
                                _mm256_add_ps(rows[2 * i + 1].lo, rows[2 * i + 1].hi));
    __m256 first = _mm256_hadd_ps(two[0], two[1]), second = _mm256_hadd_ps(two[2], two[3]);
    return _mm256_add_ps(_mm256_permute2f128_ps(first, second, 0x20), _mm256_permute2f128_ps(first, second, 0x31));
}
inline F32 reduce_rows(const F32 (&rows)[16]) { return {reduce_eight(rows), reduce_eight(rows + 8)}; }
inline float reduce_max(F32 a) {
    __m256 eight = _mm256_max_ps(a.lo, a.hi);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline I32 set_i32(int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
inline I32 load_u8_as_i32(const uint8_t* p) {
    __m128i bytes = load128(p);
    return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
}
inline I32 mul_i32(I32 a, I32 b) { return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)}; }
inline I32 add_i32(I32 a, I32 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline F32 to_f32(I32 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline I32 round_to_i32(F32 a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
inline int32_t reduce_add_i32(I32 a) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_add_epi32(a.lo, a.hi));
    int32_t sum = 0;
    for (int32_t lane : lanes) sum += lane;
    return sum;
}
inline __m256i reduce_eight_i32(const I32* rows) {
    __m256i two[4];
    for (int i = 0; i < 4; i++)
        two[i] = _mm256_hadd_epi32(_mm256_add_epi32(rows[2 * i].lo, rows[2 * i].hi),
                                   _mm256_add_epi32(rows[2 * i + 1].lo, rows[2 * i + 1].hi));
    __m256i first = _mm256_hadd_epi32(two[0], two[1]), second = _mm256_hadd_epi32(two[2], two[3]);
    return _mm256_add_epi32(_mm256_permute2x128_si256(first, second, 0x20), _mm256_permute2x128_si256(first, second, 0x31));
}
inline I32 reduce_rows_i32(const I32 (&rows)[16]) { return {reduce_eight_i32(rows), reduce_eight_i32(rows + 8)}; }
inline void store_i8(int8_t* p, I32 a, bool evens_first) {
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    if (evens_first) bytes = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

inline Bytes load_bytes(const void* p) { return {load256(p), load256(reinterpret_cast<const char*>(p) + 32)}; }
inline void store_bytes(void* p, Bytes a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p) + 1, a.hi);
}
template <int SHIFT, int32_t MASK>
inline I32 bits_of(Bytes a) {
    const __m256i mask = _mm256_set1_epi32(MASK);
    return {_mm256_and_si256(_mm256_srli_epi32(a.lo, SHIFT), mask), _mm256_and_si256(_mm256_srli_epi32(a.hi, SHIFT), mask)};
}
QW_INLINE inline Bytes opaque(Bytes a) {
    __asm__ volatile("" : "+x"(a.lo), "+x"(a.hi));
    return a;
}
inline __m256i low_half(__m256i a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
inline __m256i high_half(__m256i a) { return low_half(_mm256_srli_epi16(a, 4)); }
inline Bytes low_nibbles(Bytes a) { return {low_half(a.lo), low_half(a.hi)}; }
inline Bytes high_nibbles(Bytes a) { return {high_half(a.lo), high_half(a.hi)}; }
inline __m256i load_nibbles_half(const uint8_t* p) {
    const __m256i twice = _mm256_broadcastsi128_si256(load128(p));
    const __m256i nibbles = low_half(_mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 0, 4, 4)));
    return _mm256_sub_epi8(nibbles, _mm256_set1_epi8(8));  // c + 8 - 8
}
inline Bytes load_nibbles(const uint8_t* p) { return {load_nibbles_half(p), load_nibbles_half(p + 16)}; }
inline Bytes broadcast4(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return {_mm256_set1_epi32(four), _mm256_set1_epi32(four)};
}
// vpmaddubsw adds two products in 16 bits and saturates: safe for w <= 15, so a byte is split into two nibbles. Eight
// such pairs still fit (8 * 2 * 15 * 128 = 30720), and Sum<4> widens them together.
inline __m256i add_pairs(__m256i acc, __m256i pairs, short weight) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(weight)));
}
inline __m256i dot8_half(__m256i acc, __m256i w, __m256i x) {
    acc = add_pairs(acc, _mm256_maddubs_epi16(low_half(w), x), 1);
    return add_pairs(acc, _mm256_maddubs_epi16(high_half(w), x), 16);
}
inline I32 dot8(I32 acc, Bytes w, Bytes x) { return {dot8_half(acc.lo, w.lo, x.lo), dot8_half(acc.hi, w.hi, x.hi)}; }

// The sign of w goes to x, so that the product has an unsigned factor: |w| * (sign(w) x), 2 * 127 * 127 at most.
constexpr int SIGNED_OFFSET = 0;
struct FixedSum {
    __m256i sum;
    QW_INLINE void start() { sum = _mm256_setzero_si256(); }
    QW_INLINE void add(Bytes w, Bytes high, Bytes low) {
        add_half(w.lo, high.lo, low.lo);
        add_half(w.hi, high.hi, low.hi);
    }
    QW_INLINE void add_half(__m256i w, __m256i high, __m256i low) {
        const __m256i size = _mm256_abs_epi8(w);
        sum = add_pairs(sum, _mm256_maddubs_epi16(size, _mm256_sign_epi8(high, w)), 256);
        sum = add_pairs(sum, _mm256_maddubs_epi16(size, _mm256_sign_epi8(low, w)), 1);
    }
    QW_INLINE I32 total() const { return {sum, _mm256_setzero_si256()}; }
};

// In assembly, because GCC would add products to each other first and spill the sums to memory meanwhile.
QW_INLINE inline void add_16(__m256i& sum, __m256i pairs) { __asm__("vpaddw %1, %0, %0" : "+x"(sum) : "x"(pairs)); }
QW_INLINE inline void add_32(__m256i& sum, __m256i pairs) { __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(pairs)); }

template <int PLANE>
inline Bytes byte_plane(Bytes row) {
    if constexpr (PLANE == 1) return {_mm256_srli_epi16(row.lo, 8), _mm256_srli_epi16(row.hi, 8)};
    const __m256i even = _mm256_set1_epi16(255);
    return {_mm256_and_si256(row.lo, even), _mm256_and_si256(row.hi, even)};
}

template <int BITS>
struct Sum;
template <>
struct Sum<4> {
    static constexpr int HELD_ROWS = 4;  // eight products, see above
    I32 total;
    template <bool IS_FIRST>
    QW_INLINE void add(Bytes w, Bytes x) {
        const __m256i first = _mm256_maddubs_epi16(w.lo, x.lo), second = _mm256_maddubs_epi16(w.hi, x.hi);
        if constexpr (IS_FIRST) lo = first, hi = second;
        else add_16(lo, first), add_16(hi, second);
    }
    QW_INLINE void flush() { total = {add_pairs(total.lo, lo, 1), add_pairs(total.hi, hi, 1)}; }

private:
    __m256i lo, hi;
};
// vpmaddwd takes 16-bit numbers: two 8-bit codes, and two activations.
template <>
struct Sum<8> {
    static constexpr int HELD_ROWS = 1;
    I32 total;
    template <bool IS_FIRST>
    QW_INLINE void add(Bytes w, Bytes x) {
        add_32(total.lo, _mm256_madd_epi16(w.lo, x.lo));
        add_32(total.hi, _mm256_madd_epi16(w.hi, x.hi));
    }
    QW_INLINE void flush() {}
};

inline Bf16 load_bf16_pairs(const uint16_t* p) { return {load256(p), load256(p + 16)}; }
inline Bf16 repeat_bf16_pair(const uint16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return {_mm256_set1_epi32(pair), _mm256_set1_epi32(pair)};
}
inline __m256 dot_bf16_half(__m256 acc, __m256i a, __m256i b) {
    __m256i odd = _mm256_set1_epi32(int(0xffff0000));
    acc = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(a, odd)), _mm256_castsi256_ps(_mm256_and_si256(b, odd)), acc);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)), acc);
}
inline F32 dot_bf16(F32 acc, Bf16 a, Bf16 b) { return {dot_bf16_half(acc.lo, a.lo, b.lo), dot_bf16_half(acc.hi, a.hi, b.hi)}; }
// Always inlined: GCC 12 treats a function that only prefetches as having no effect, and drops calls to it.
QW_INLINE inline void prefetch(const void* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
QW_INLINE inline void prefetch_weights(const uint8_t* p) { prefetch(p + 8192); }

}  // namespace qw
