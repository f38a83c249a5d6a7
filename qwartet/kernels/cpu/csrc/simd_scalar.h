// The vector operations that every kernel is written in, one value after another: the specification of the other
// simd_*.h files, and the port for a processor without any of them.
//
//   F32    16 floats            one per output row of a tile, or 16 neighbours of a vector
//   I32    16 int32             the same, while integers are being summed
//   Bytes  64 bytes             16 lanes of 4: four consecutive inputs of each of 16 output rows
//   Bf16   32 bfloat16          one cache line of a dense row
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace qw {

constexpr const char* ISA_NAME = "scalar";
// How the quantised linear fills the registers: the most parts at once, and for each number of parts the tiles of 16
// outputs; up to CHAINED_PARTS parts, even and odd rows have sums of their own.
constexpr int most_parts(int) { return 4; }
constexpr int tiles_at_once(int) { return 1; }
constexpr int CHAINED_PARTS = 0;
constexpr int64_t TAKEN_APART_FROM = 16;  // from this many parts on, codes are unpacked once, into memory
constexpr int PLANES_OF_BYTES = 1;  // 2: 8-bit codes are multiplied by 16-bit activations, see byte_plane
constexpr int DENSE_ROWS = 2;  // the same for the dense kernel
constexpr int DENSE_TOKENS = 2;
constexpr int GRADIENT_ROWS = 4;  // inputs, and vectors of tokens, whose sums of a gradient stay in registers
constexpr int GRADIENT_VECTORS = 1;
constexpr bool FAST_BF16 = false;  // whether two bf16 products take less time than one in fp32
constexpr int PRODUCT_ROWS = 4;  // of a tile of a product of fp32 matrices, and vectors in a row of it
constexpr int PRODUCT_VECTORS = 1;
constexpr int SCORE_KEYS = 4;  // keys of attention, and query rows, whose sums stay in registers
constexpr int SCORE_ROWS = 1;
constexpr int VALUE_ROWS = 1;  // query rows, and vectors along the head, for its values
constexpr int VALUE_PARTS = 4;

struct F32 { float v[16]; };
struct I32 { int32_t v[16]; };
struct Bytes { uint8_t v[64]; };
struct Bf16 { uint16_t v[32]; };

inline float bf16_to_float(uint16_t bits) {
    uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

inline uint16_t float_to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (value != value) return uint16_t(bits >> 16 | 0x40);  // a quiet NaN stays one
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // to nearest, ties to even
}

inline float f16_to_float(uint16_t bits) {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, mantissa = bits & 1023;
    if (exponent == 0) {
        float value = std::ldexp(float(mantissa), -24);
        return sign ? -value : value;
    }
    uint32_t wide = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | mantissa << 13;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

template <class Function>
inline F32 map(Function function) {
    F32 out;
    for (int i = 0; i < 16; i++) out.v[i] = function(i);
    return out;
}

inline F32 set_f32(float value) { return map([&](int) { return value; }); }
inline F32 load_f32(const float* p) { return map([&](int i) { return p[i]; }); }
inline void store_f32(float* p, F32 a) { std::memcpy(p, a.v, 64); }
inline F32 load_bf16(const uint16_t* p) { return map([&](int i) { return bf16_to_float(p[i]); }); }
inline F32 load_f16(const uint16_t* p) { return map([&](int i) { return f16_to_float(p[i]); }); }
inline F32 load_i8(const int8_t* p) { return map([&](int i) { return float(p[i]); }); }
inline void store_bf16(uint16_t* p, F32 a) {
    for (int i = 0; i < 16; i++) p[i] = float_to_bf16(a.v[i]);
}
inline F32 add(F32 a, F32 b) { return map([&](int i) { return a.v[i] + b.v[i]; }); }
inline F32 sub(F32 a, F32 b) { return map([&](int i) { return a.v[i] - b.v[i]; }); }
inline F32 mul(F32 a, F32 b) { return map([&](int i) { return a.v[i] * b.v[i]; }); }
inline F32 div(F32 a, F32 b) { return map([&](int i) { return a.v[i] / b.v[i]; }); }
// Two roundings where the other files have one: std::fma without the instruction takes 50 times as long.
inline F32 fma(F32 a, F32 b, F32 c) { return map([&](int i) { return a.v[i] * b.v[i] + c.v[i]; }); }
inline F32 max(F32 a, F32 b) { return map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline F32 min(F32 a, F32 b) { return map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
inline F32 round(F32 a) { return map([&](int i) { return std::nearbyint(a.v[i]); }); }
inline F32 scale_by_power_of_2(F32 a, F32 n) { return map([&](int i) { return std::ldexp(a.v[i], int(n.v[i])); }); }

// Lane i <- lane i ^ DISTANCE; DISTANCE: 1, 2, 4 or 8.
template <int DISTANCE>
inline F32 swap_lanes(F32 a) {
    return map([&](int i) { return a.v[i ^ DISTANCE]; });
}

// Sums and maxima over the lanes, always in the same order: halves upon halves.
inline float reduce_add(F32 a) {
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) a.v[i] += a.v[i + width];
    return a.v[0];
}
// Lane i of the result is the sum over the lanes of rows[i]: sixteen reduce_add at once.
inline F32 reduce_rows(const F32 (&rows)[16]) { return map([&](int i) { return reduce_add(rows[i]); }); }
inline float reduce_max(F32 a) {
    float most = a.v[0];
    for (int i = 1; i < 16; i++) most = a.v[i] > most ? a.v[i] : most;
    return most;
}

inline I32 set_i32(int32_t value) {
    I32 out;
    for (int i = 0; i < 16; i++) out.v[i] = value;
    return out;
}
inline I32 load_u8_as_i32(const uint8_t* p) {
    I32 out;
    for (int i = 0; i < 16; i++) out.v[i] = p[i];
    return out;
}
inline I32 mul_i32(I32 a, I32 b) {
    for (int i = 0; i < 16; i++) a.v[i] *= b.v[i];
    return a;
}
inline F32 to_f32(I32 a) { return map([&](int i) { return float(a.v[i]); }); }
inline I32 round_to_i32(F32 a) {
    I32 out;
    for (int i = 0; i < 16; i++) out.v[i] = int32_t(std::nearbyint(a.v[i]));
    return out;
}
inline int32_t reduce_add_i32(I32 a) {
    int32_t sum = 0;
    for (int i = 0; i < 16; i++) sum += a.v[i];
    return sum;
}
inline I32 add_i32(I32 a, I32 b) {
    for (int i = 0; i < 16; i++) a.v[i] += b.v[i];
    return a;
}
inline I32 reduce_rows_i32(const I32 (&rows)[16]) {
    I32 out;
    for (int i = 0; i < 16; i++) out.v[i] = reduce_add_i32(rows[i]);
    return out;
}
// Stores 16 small integers as int8; `evens_first` puts each 8 in the order 0 2 4 6 1 3 5 7.
inline void store_i8(int8_t* p, I32 a, bool evens_first) {
    for (int i = 0; i < 16; i++) {
        int place = evens_first ? (i & 8) + (i & 1) * 4 + (i >> 1 & 3) : i;
        p[place] = int8_t(a.v[i]);
    }
}

inline Bytes load_bytes(const void* p) {
    Bytes out;
    std::memcpy(out.v, p, 64);
    return out;
}
inline void store_bytes(void* p, Bytes a) { std::memcpy(p, a.v, 64); }
// Bits SHIFT .. of each lane as an integer.
template <int SHIFT, int32_t MASK>
inline I32 bits_of(Bytes a) {
    I32 out;
    for (int i = 0; i < 16; i++) {
        uint32_t lane;
        std::memcpy(&lane, a.v + 4 * i, 4);
        out.v[i] = int32_t(lane >> SHIFT) & MASK;
    }
    return out;
}
inline Bytes opaque(Bytes a) { return a; }  // the same bytes, but the compiler cannot know it
inline Bytes low_nibbles(Bytes a) {
    for (auto& byte : a.v) byte &= 15;
    return a;
}
inline Bytes high_nibbles(Bytes a) {
    for (auto& byte : a.v) byte >>= 4;
    return a;
}
// 32 bytes of 4-bit codes with 8 added -> 64 signed bytes: of each 16 bytes the low nibbles, then the high ones.
inline Bytes load_nibbles(const uint8_t* p) {
    Bytes out;
    for (int i = 0; i < 64; i++) {
        const uint8_t byte = p[i / 32 * 16 + i % 16];
        out.v[i] = uint8_t((i % 32 < 16 ? byte & 15 : byte >> 4) - 8);
    }
    return out;
}
inline Bytes broadcast4(const int8_t* p) {
    Bytes out;
    for (int i = 0; i < 64; i += 4) std::memcpy(out.v + i, p, 4);
    return out;
}
// acc[lane] += sum over the lane's 4 bytes of w (unsigned) * x (signed).
inline I32 dot8(I32 acc, Bytes w, Bytes x) {
    for (int i = 0; i < 64; i++) acc.v[i / 4] += int32_t(w.v[i]) * int32_t(int8_t(x.v[i]));
    return acc;
}

// A row of 8-bit codes in the form in which it is multiplied, one plane after the other. With PLANES_OF_BYTES = 2 each
// lane of a plane holds two codes as int16, the even ones or the odd ones of its four, for two int16 of activations.
template <int PLANE>
inline Bytes byte_plane(Bytes row) { return row; }

// Sums of such products for codes of BITS bits: call `flush` after every HELD_ROWS rows of codes, and set IS_FIRST in
// the first `add` of them; then `total` is right.
template <int BITS>
struct Sum {
    static constexpr int HELD_ROWS = 1;
    I32 total;
    template <bool IS_FIRST>
    void add(Bytes w, Bytes x) { total = dot8(total, w, x); }
    void flush() {}
};

// Sums of signed bytes times 16-bit numbers 256 high + low, high and low signed bytes of -127 .. 127. `total` exceeds
// the true sum by SIGNED_OFFSET times the sum of the numbers.
constexpr int SIGNED_OFFSET = 0;
struct FixedSum {
    I32 sum;
    void start() { sum = set_i32(0); }
    void add(Bytes w, Bytes high, Bytes low) {
        for (int i = 0; i < 64; i++) {
            const int32_t number = 256 * int32_t(int8_t(high.v[i])) + int32_t(int8_t(low.v[i]));
            sum.v[i / 4] += int32_t(int8_t(w.v[i])) * number;
        }
    }
    I32 total() const { return sum; }
};

inline Bf16 load_bf16_pairs(const uint16_t* p) {
    Bf16 out;
    std::memcpy(out.v, p, 64);
    return out;
}
inline Bf16 repeat_bf16_pair(const uint16_t* p) {
    Bf16 out;
    for (int i = 0; i < 32; i += 2) std::memcpy(out.v + i, p, 4);
    return out;
}
// acc[lane] += a[2 lane] b[2 lane] + a[2 lane + 1] b[2 lane + 1]
inline F32 dot_bf16(F32 acc, Bf16 a, Bf16 b) {
    return map([&](int i) {
        float odd = bf16_to_float(a.v[2 * i + 1]) * bf16_to_float(b.v[2 * i + 1]) + acc.v[i];
        return bf16_to_float(a.v[2 * i]) * bf16_to_float(b.v[2 * i]) + odd;
    });
}
inline void prefetch(const void*) {}
inline void prefetch_weights(const uint8_t*) {}  // beside a load of weights that are read in sequence

}  // namespace qw
