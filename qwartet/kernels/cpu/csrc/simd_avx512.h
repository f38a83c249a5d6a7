// The operations of simd_scalar.h in AVX-512 with VNNI and BF16: one register each.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "unroll.h"

namespace qw {

constexpr const char* ISA_NAME = "avx512";
constexpr int most_parts(int) { return 12; }
// 2 x 12 sums, 4 halves of the weights and an activation fill 29 of the 32 registers.
constexpr int tiles_at_once(int parts) { return parts <= 4 ? 4 : 2; }
constexpr int SCORE_KEYS = 8;
constexpr int SCORE_ROWS = 3;
constexpr int VALUE_ROWS = 3;
constexpr int VALUE_PARTS = 8;
constexpr int CHAINED_PARTS = 2;
constexpr int64_t TAKEN_APART_FROM = INT64_MAX;  // gains a tenth in kernels_lab/cpu, not measured here yet
constexpr int PLANES_OF_BYTES = 1;
constexpr int DENSE_ROWS = 4;
constexpr int DENSE_TOKENS = 6;
constexpr int GRADIENT_ROWS = 8;
constexpr int GRADIENT_VECTORS = 2;
constexpr bool FAST_BF16 = true;
constexpr int PRODUCT_ROWS = 12;
constexpr int PRODUCT_VECTORS = 2;

using F32 = __m512;
using I32 = __m512i;
struct Bytes { __m512i v; };
using Bf16 = __m512bh;

inline F32 set_f32(float value) { return _mm512_set1_ps(value); }
inline F32 load_f32(const float* p) { return _mm512_loadu_ps(p); }
inline void store_f32(float* p, F32 a) { _mm512_storeu_ps(p, a); }
inline F32 load_bf16(const uint16_t* p) {
    __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline F32 load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline F32 load_i8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline void store_bf16(uint16_t* p, F32 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a)));
}
inline F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
inline F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
inline F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
inline F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
inline F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
inline F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
inline F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
inline F32 round(F32 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F32 scale_by_power_of_2(F32 a, F32 n) { return _mm512_scalef_ps(a, n); }

template <int DISTANCE>
inline F32 swap_lanes(F32 a) {
    if constexpr (DISTANCE == 8) return _mm512_shuffle_f32x4(a, a, 0x4e);
    if constexpr (DISTANCE == 4) return _mm512_shuffle_f32x4(a, a, 0xb1);
    return _mm512_permute_ps(a, DISTANCE == 2 ? 0x4e : 0xb1);
}

inline float reduce_add(F32 a) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// Sixteen rows -> one vector of their sums: at each level two vectors become one, with halves added to halves.
inline F32 fold8(F32 a, F32 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}
inline F32 fold4(F32 a, F32 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
inline F32 fold2(F32 a, F32 b) { return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee)); }
inline F32 fold1(F32 a, F32 b) { return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd)); }
inline F32 reduce_rows(const F32 (&rows)[16]) {
    F32 four[4];
    for (int i = 0; i < 4; i++) {  // rows i, i + 4, i + 8, i + 12, in the lanes i, i + 4, ... at the end
        F32 eight[2] = {fold8(rows[i], rows[i + 4]), fold8(rows[i + 8], rows[i + 12])};
        four[i] = fold4(eight[0], eight[1]);
    }
    return fold1(fold2(four[0], four[1]), fold2(four[2], four[3]));
}
inline float reduce_max(F32 a) { return _mm512_reduce_max_ps(a); }

inline I32 set_i32(int32_t value) { return _mm512_set1_epi32(value); }
inline I32 load_u8_as_i32(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline I32 mul_i32(I32 a, I32 b) { return _mm512_mullo_epi32(a, b); }
inline I32 add_i32(I32 a, I32 b) { return _mm512_add_epi32(a, b); }
inline F32 to_f32(I32 a) { return _mm512_cvtepi32_ps(a); }
inline I32 round_to_i32(F32 a) { return _mm512_cvtps_epi32(a); }
inline int32_t reduce_add_i32(I32 a) { return _mm512_reduce_add_epi32(a); }
inline I32 reduce_rows_i32(const I32 (&rows)[16]) {
    auto fold8 = [](I32 a, I32 b) { return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x44), _mm512_shuffle_i32x4(a, b, 0xee)); };
    auto fold4 = [](I32 a, I32 b) { return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd)); };
    auto fold2 = [](I32 a, I32 b) { return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)); };
    I32 four[4];
    for (int i = 0; i < 4; i++) four[i] = fold4(fold8(rows[i], rows[i + 4]), fold8(rows[i + 8], rows[i + 12]));
    F32 low = _mm512_castsi512_ps(fold2(four[0], four[1])), high = _mm512_castsi512_ps(fold2(four[2], four[3]));
    return _mm512_add_epi32(_mm512_castps_si512(_mm512_shuffle_ps(low, high, 0x88)),
                            _mm512_castps_si512(_mm512_shuffle_ps(low, high, 0xdd)));
}
inline void store_i8(int8_t* p, I32 a, bool evens_first) {
    __m128i bytes = _mm512_cvtepi32_epi8(a);
    if (evens_first) bytes = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

template <int SHIFT, int32_t MASK>
inline I32 bits_of(Bytes a) {
    return _mm512_and_si512(_mm512_srli_epi32(a.v, SHIFT), _mm512_set1_epi32(MASK));
}
inline Bytes load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_bytes(void* p, Bytes a) { _mm512_storeu_si512(p, a.v); }
QW_INLINE inline Bytes opaque(Bytes a) {
    __asm__ volatile("" : "+v"(a.v));
    return a;
}
inline Bytes low_nibbles(Bytes a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
inline Bytes high_nibbles(Bytes a) { return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))}; }
inline Bytes load_nibbles(const uint8_t* p) {
    const __m512i both = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    const __m512i twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), both);
    const __m512i nibbles = low_nibbles({_mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4))}).v;
    return {_mm512_sub_epi8(nibbles, _mm512_set1_epi8(8))};  // c + 8 - 8
}
inline Bytes broadcast4(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return {_mm512_set1_epi32(four)};
}
// In assembly: for the intrinsic GCC 12 copies the sums from register to register and runs out of them.
inline I32 dot8(I32 acc, Bytes w, Bytes x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w.v), "v"(x.v));
    return acc;
}
// vpdpbusd takes its first factor unsigned, so 128 is added to a signed byte.
constexpr int SIGNED_OFFSET = 128;
struct FixedSum {
    I32 high_sum, low_sum;
    QW_INLINE void start() { high_sum = low_sum = set_i32(0); }
    QW_INLINE void add(Bytes w, Bytes high, Bytes low) {
        const Bytes raised = {_mm512_xor_si512(w.v, _mm512_set1_epi8(-128))};
        high_sum = dot8(high_sum, raised, high);
        low_sum = dot8(low_sum, raised, low);
    }
    QW_INLINE I32 total() const { return add_i32(_mm512_slli_epi32(high_sum, 8), low_sum); }
};
template <int PLANE>
inline Bytes byte_plane(Bytes row) { return row; }
template <int BITS>
struct Sum {
    static constexpr int HELD_ROWS = 1;
    I32 total;
    template <bool IS_FIRST>
    QW_INLINE void add(Bytes w, Bytes x) { total = dot8(total, w, x); }
    QW_INLINE void flush() {}
};

inline Bf16 load_bf16_pairs(const uint16_t* p) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p)); }
inline Bf16 repeat_bf16_pair(const uint16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}
inline F32 dot_bf16(F32 acc, Bf16 a, Bf16 b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
}
// Always inlined: GCC 12 treats a function that only prefetches as having no effect, and drops calls to it.
QW_INLINE inline void prefetch(const void* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
// For weights that are read in sequence: far ahead into level 2, nearer into level 1. Either one alone leaves a tenth
// of the bandwidth unused, at least on Intel, where level 1 can have only 16 lines outstanding.
QW_INLINE inline void prefetch_weights(const uint8_t* weights) {
    const char* p = reinterpret_cast<const char*>(weights);
    _mm_prefetch(p + 16384, _MM_HINT_T1);
    _mm_prefetch(p + 4096, _MM_HINT_T0);
}

}  // namespace qw
