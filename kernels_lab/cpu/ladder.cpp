// Int4 products on a CPU, rung by rung: each changes one thing, README.md says what it gained. bench.py runs them.
//
//   y[m, n] = sum over k of s[g, n] (q[k, n] - 8) x[m, k]         g = k / 128
//           = sum over g of s[g, n] sx[g, m] (sum of q[k, n] c[m, k] - 8 sum of c[m, k])    with x ~ sx c, c in int8
//
// Two layouts of the same words (8 consecutive inputs of one output, low bits first):
//
//   file     uint32 [K / 8, N], then fp16 [G, N]                 as GPTQ writes it: the next word of an output is 4 N bytes on
//   panels   [N / 64] panels of [G] groups of uint32 [16, 64] and fp16 [64]     4,224 bytes a group, read in a row
//
// K is a multiple of 128 and N of 64. The integer rungs are written in the operations of `Bytes`, one register: AVX2, or
// AVX-512 with VNNI if the compiler targets it. Every rung takes a range of panels, so that threads can split the work.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#define INLINE __attribute__((always_inline))

namespace {

constexpr int64_t GROUP = 128, PANEL = 64, ROWS_OF_GROUP = GROUP / 8, ROW_BYTES = 4 * PANEL;
constexpr int64_t CODES_BYTES = ROWS_OF_GROUP * ROW_BYTES, GROUP_BYTES = CODES_BYTES + 2 * PANEL;

struct Part {  // what the int8 codes of one token in one group count for
    float scale;
    int32_t sum;
};

struct Problem {
    int64_t K, N, M;
    const uint32_t* words;   // file layout
    const uint16_t* scales;
    const uint8_t* panels;   // panel layout
    const float* x;          // [M, K]
    const int8_t* codes;     // [G, M, 128], each 8 in the order 0 2 4 6 1 3 5 7
    const Part* parts;       // [G, M]
    float* y;                // [M, N]
    int64_t ahead;           // bytes between a load and the prefetch beside it

    int64_t num_groups() const { return K / GROUP; }
    const uint8_t* group_of(int64_t panel, int64_t g) const { return panels + (panel * num_groups() + g) * GROUP_BYTES; }
};

// body(0), ..., body(COUNT - 1): by templates, before anything else, or by a loop that the compiler may unroll later.
template <int COUNT, bool BY_TEMPLATES = true, class Body>
INLINE inline void repeat(const Body& body) {
    if constexpr (BY_TEMPLATES)
        [&]<int... I>(std::integer_sequence<int, I...>) INLINE { (body(std::integral_constant<int, I>{}), ...); }
        (std::make_integer_sequence<int, COUNT>{});
    else
        for (int i = 0; i < COUNT; i++) body(i);
}

// ---- one register: LANES outputs, 4 bytes of each

#ifdef __AVX512VNNI__
constexpr int LANES = 16;
using Bytes = __m512i;
inline Bytes load(const void* p) { return _mm512_loadu_si512(p); }
inline void store(void* p, Bytes a) { _mm512_storeu_si512(p, a); }
inline Bytes set(int32_t value) { return _mm512_set1_epi32(value); }
inline Bytes add(Bytes a, Bytes b) { return _mm512_add_epi32(a, b); }
inline Bytes low(Bytes a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
inline Bytes high(Bytes a) { return low(_mm512_srli_epi16(a, 4)); }
inline void add_scaled(float* y, Bytes total, const uint16_t* scales, float scale) {
    const __m512 s = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
    const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(total), s);
    _mm512_storeu_ps(y, _mm512_fmadd_ps(product, _mm512_set1_ps(scale), _mm512_loadu_ps(y)));
}
// acc[lane] += sum of the lane's 4 products, unsigned times signed: one instruction, so there is nothing to defer.
struct WideSum {
    Bytes total;
    INLINE void start(int32_t value) { total = set(value); }
    INLINE void add(Bytes w, Bytes x) { __asm__("vpdpbusd %2, %1, %0" : "+v"(total) : "v"(w), "v"(x)); }
    INLINE void flush() {}
};
using PairSum = WideSum;
using TiedSum = WideSum;
#else
constexpr int LANES = 8;
using Bytes = __m256i;
inline Bytes load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store(void* p, Bytes a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
inline Bytes set(int32_t value) { return _mm256_set1_epi32(value); }
inline Bytes add(Bytes a, Bytes b) { return _mm256_add_epi32(a, b); }
inline Bytes low(Bytes a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
inline Bytes high(Bytes a) { return low(_mm256_srli_epi16(a, 4)); }
inline void add_scaled(float* y, Bytes total, const uint16_t* scales, float scale) {
    const __m256 s = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
    const __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(total), s);
    _mm256_storeu_ps(y, _mm256_fmadd_ps(product, _mm256_set1_ps(scale), _mm256_loadu_ps(y)));
}
inline Bytes widened(Bytes total, Bytes pairs) {
    return _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
// Two products to 16 bits (at most 2 * 15 * 128 = 3840), those to 32 bits, and then the sum.
struct WideSum {
    Bytes total;
    INLINE void start(int32_t value) { total = set(value); }
    INLINE void add(Bytes w, Bytes x) { total = widened(total, _mm256_maddubs_epi16(w, x)); }
    INLINE void flush() {}
};
// The same with sums of up to 8 pairs in 16 bits (8 * 3840 = 30720 < 32768), widened together.
struct PairSum {
    Bytes total, pairs;
    INLINE void start(int32_t value) { total = set(value), pairs = set(0); }
    INLINE void add(Bytes w, Bytes x) { pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w, x)); }
    INLINE void flush() { total = widened(total, pairs), pairs = set(0); }
};
// The same, tied to its register: otherwise GCC adds the products of several inputs first and spills sums to memory.
struct TiedSum : PairSum {
    INLINE void add(Bytes w, Bytes x) {
        const Bytes products = _mm256_maddubs_epi16(w, x);
        __asm__("vpaddw %1, %0, %0" : "+x"(pairs) : "x"(products));
    }
};
#endif

constexpr int REGISTERS = PANEL / LANES;  // of a row of a panel
constexpr int FLUSH_ROWS = 4;             // 8 products in each 16-bit sum

INLINE inline Bytes broadcast4(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return set(four);
}

// ---- GEMV (M = 1)

std::atomic<int32_t> sink;  // keeps reads from being optimised away

// Reads the bytes of the panels and does nothing with them.
void read_only(const Problem& p, int64_t begin, int64_t end) {
    Bytes sums[4] = {set(0), set(0), set(0), set(0)};
    const uint8_t* stop = p.group_of(end, 0);
    for (const uint8_t* at = p.group_of(begin, 0); at < stop; at += 4 * sizeof(Bytes))
        repeat<4>([&](auto i) INLINE { sums[i] = add(sums[i], load(at + i * sizeof(Bytes))); });
    alignas(64) int32_t lanes[LANES];
    store(lanes, add(add(sums[0], sums[1]), add(sums[2], sums[3])));
    sink += lanes[0];
}

// Dequantises to fp32 from the file's layout, OUTPUTS outputs side by side. The empty assembly keeps a loop scalar.
template <int OUTPUTS, bool VECTORISED>
void file_fp32(const Problem& p, int64_t begin, int64_t end) {
    for (int64_t n = begin * PANEL; n < end * PANEL; n += OUTPUTS) {
        float y[OUTPUTS] = {};
        for (int64_t g = 0; g < p.num_groups(); g++) {
            float sums[OUTPUTS] = {};
            for (int64_t r = g * ROWS_OF_GROUP; r < (g + 1) * ROWS_OF_GROUP; r++)
                for (int i = 0; i < OUTPUTS; i++) {
                    const uint32_t word = p.words[r * p.N + n + i];
                    for (int j = 0; j < 8; j++) sums[i] += float(int32_t(word >> 4 * j & 15) - 8) * p.x[8 * r + j];
                    if constexpr (!VECTORISED) __asm__ volatile("");
                }
            for (int i = 0; i < OUTPUTS; i++) y[i] += sums[i] * _cvtsh_ss(p.scales[g * p.N + n + i]);
        }
        std::memcpy(p.y + n, y, sizeof y);
    }
}

// y[64] += one group of 64 outputs in integers. The rows of codes are `row_bytes` apart: 4 N in the file, 256 in a panel.
template <bool PREFETCHES>
INLINE inline void add_group(const Problem& p, const uint8_t* codes, int64_t row_bytes, const uint16_t* scales, int64_t g, float* y) {
    PairSum sums[REGISTERS];
    repeat<REGISTERS>([&](auto i) INLINE { sums[i].start(-8 * p.parts[g].sum); });
    const int8_t* x = p.codes + g * GROUP;
    for (int r = 0; r < ROWS_OF_GROUP; r++, x += 8, codes += row_bytes) {
        const Bytes even = broadcast4(x), odd = broadcast4(x + 4);
        repeat<REGISTERS>([&](auto i) INLINE {
            const Bytes bytes = load(codes + i * sizeof(Bytes));
            if (PREFETCHES && i * sizeof(Bytes) % 64 == 0)
                _mm_prefetch(reinterpret_cast<const char*>(codes + i * sizeof(Bytes) + p.ahead), _MM_HINT_T0);
            sums[i].add(low(bytes), even);
            sums[i].add(high(bytes), odd);
        });
        if (r % FLUSH_ROWS == FLUSH_ROWS - 1) repeat<REGISTERS>([&](auto i) INLINE { sums[i].flush(); });
    }
    repeat<REGISTERS>([&](auto i) INLINE { add_scaled(y + LANES * i, sums[i].total, scales + LANES * i, p.parts[g].scale); });
}

void file_int8(const Problem& p, int64_t begin, int64_t end) {
    for (int64_t n = begin * PANEL; n < end * PANEL; n += PANEL) {
        float y[PANEL] = {};
        for (int64_t g = 0; g < p.num_groups(); g++)
            add_group<false>(p, reinterpret_cast<const uint8_t*>(p.words + g * ROWS_OF_GROUP * p.N + n), 4 * p.N,
                             p.scales + g * p.N + n, g, y);
        std::memcpy(p.y + n, y, sizeof y);
    }
}

template <bool PREFETCHES>
void panels_int8(const Problem& p, int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; panel++) {
        float y[PANEL] = {};
        for (int64_t g = 0; g < p.num_groups(); g++) {
            const uint8_t* codes = p.group_of(panel, g);
            add_group<PREFETCHES>(p, codes, ROW_BYTES, reinterpret_cast<const uint16_t*>(codes + CODES_BYTES), g, y);
        }
        std::memcpy(p.y + panel * PANEL, y, sizeof y);
    }
}

// ---- GEMM (many tokens): PARTS tokens x WIDTH registers of outputs at a time

enum class Nibbles { IN_REGISTERS, IN_BUFFER };  // unpacked for every tile of tokens, or once for all of them

// sums[PARTS, 64] += one group for PARTS tokens. `codes`: nibbles, or 8 KB of bytes in the order in which they are used.
template <class Sum, int PARTS, int WIDTH, Nibbles NIBBLES, bool BY_TEMPLATES>
void add_tile(const uint8_t* codes, const uint16_t* scales, const int8_t* x, const Part* parts, float* sums) {
    constexpr int64_t BYTES = NIBBLES == Nibbles::IN_BUFFER ? 2 : 1;  // per byte of nibbles
    for (int first = 0; first < REGISTERS; first += WIDTH) {
        Sum acc[PARTS][WIDTH];
        const auto for_all = [&](const auto& body) INLINE {
            repeat<PARTS, BY_TEMPLATES>([&](auto t) INLINE { repeat<WIDTH, BY_TEMPLATES>([&](auto i) INLINE { body(t, i); }); });
        };
        for_all([&](auto t, auto i) INLINE { acc[t][i].start(-8 * parts[t].sum); });
        for (int r = 0; r < ROWS_OF_GROUP; r++) {
            const uint8_t* row = codes + BYTES * (r * ROW_BYTES + first * sizeof(Bytes));
            Bytes w[2][WIDTH];
            repeat<WIDTH, BY_TEMPLATES>([&](auto i) INLINE {
                const Bytes bytes = load(row + BYTES * i * sizeof(Bytes));
                w[0][i] = NIBBLES == Nibbles::IN_BUFFER ? bytes : low(bytes);
                w[1][i] = NIBBLES == Nibbles::IN_BUFFER ? load(row + (2 * i + 1) * sizeof(Bytes)) : high(bytes);
            });
            repeat<2, BY_TEMPLATES>([&](auto half) INLINE {
                repeat<PARTS, BY_TEMPLATES>([&](auto t) INLINE {
                    const Bytes four = broadcast4(x + t * GROUP + 8 * r + 4 * half);
                    repeat<WIDTH, BY_TEMPLATES>([&](auto i) INLINE { acc[t][i].add(w[half][i], four); });
                });
            });
            if (r % FLUSH_ROWS == FLUSH_ROWS - 1) for_all([&](auto t, auto i) INLINE { acc[t][i].flush(); });
        }
        for_all([&](auto t, auto i) INLINE {
            const int64_t n = (first + i) * LANES;
            add_scaled(sums + t * PANEL + n, acc[t][i].total, scales + n, parts[t].scale);
        });
    }
}

void nibbles_to_bytes(const uint8_t* codes, uint8_t* bytes) {
    for (int64_t at = 0; at < CODES_BYTES; at += sizeof(Bytes)) {
        store(bytes + 2 * at, low(load(codes + at)));
        store(bytes + 2 * at + sizeof(Bytes), high(load(codes + at)));
    }
}

template <class Sum, int PARTS, int WIDTH, Nibbles NIBBLES = Nibbles::IN_REGISTERS, bool BY_TEMPLATES = true>
void gemm(const Problem& p, int64_t begin, int64_t end) {
    constexpr auto tiles = []<int... I>(std::integer_sequence<int, I...>) {
        return std::array{add_tile<Sum, I + 1, WIDTH, NIBBLES, BY_TEMPLATES>...};
    }(std::make_integer_sequence<int, PARTS>{});
    std::vector<float> sums(p.M * PANEL);
    alignas(64) uint8_t bytes[2 * CODES_BYTES];
    for (int64_t panel = begin; panel < end; panel++) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (int64_t g = 0; g < p.num_groups(); g++) {
            const uint8_t* codes = p.group_of(panel, g);
            if (NIBBLES == Nibbles::IN_BUFFER) nibbles_to_bytes(codes, bytes);
            const int64_t num_tiles = (p.M + PARTS - 1) / PARTS;
            for (int64_t tile = 0, m = 0, count; tile < num_tiles; tile++, m += count) {  // of nearly equal size
                count = (p.M - m) / (num_tiles - tile);
                tiles[count - 1](NIBBLES == Nibbles::IN_BUFFER ? bytes : codes, reinterpret_cast<const uint16_t*>(codes + CODES_BYTES),
                                 p.codes + (g * p.M + m) * GROUP, p.parts + g * p.M + m, &sums[m * PANEL]);
            }
        }
        for (int64_t m = 0; m < p.M; m++) std::memcpy(p.y + m * p.N + panel * PANEL, &sums[m * PANEL], 4 * PANEL);
    }
}

// The processor's ceiling: as many register-to-register products as 2 K N M has, without loads.
void products_only(const Problem& p, int64_t begin, int64_t end) {
    constexpr int CHAINS = 10;
    TiedSum sums[CHAINS];
    repeat<CHAINS>([&](auto i) INLINE { sums[i].start(i); });
    Bytes w = low(set(int32_t(begin))), x = set(0x01020304);
    const int64_t rounds = (end - begin) * PANEL * p.K * p.M / (8 * CHAINS * 4 * LANES);
    for (int64_t n = 0; n < rounds; n++) {
        repeat<8>([&](auto) INLINE {
            repeat<CHAINS>([&](auto i) INLINE {
                __asm__ volatile("" : "+x"(w));  // each product looks like a new one
                sums[i].add(w, x);
            });
        });
        repeat<CHAINS>([&](auto i) INLINE { sums[i].flush(); });
    }
    repeat<CHAINS>([&](auto i) INLINE { sums[0].total = add(sums[0].total, sums[i].total); });
    alignas(64) int32_t lanes[LANES];
    store(lanes, sums[0].total);
    sink += lanes[0];
}

using Rung = void (*)(const Problem&, int64_t begin, int64_t end);
struct Named {
    const char* name;
    Rung run;
};

const Named RUNGS[] = {
    {"read only", read_only},
    {"file, fp32, one output after the other", file_fp32<1, false>},
    {"file, fp32, 64 outputs, scalar", file_fp32<64, false>},
    {"file, fp32, 64 outputs, vectorised", file_fp32<64, true>},
    {"file, int8", file_int8},
    {"panels, int8", panels_int8<false>},
    {"panels, int8, prefetch", panels_int8<true>},
    {"products only", products_only},
    {"3x2 loops", gemm<WideSum, 3, 2, Nibbles::IN_REGISTERS, false>},
    {"3x2 unrolled", gemm<WideSum, 3, 2>},
    {"3x2 pairs", gemm<PairSum, 3, 2>},
    {"3x2 tied", gemm<TiedSum, 3, 2>},
    {"3x2 tied, buffer", gemm<TiedSum, 3, 2, Nibbles::IN_BUFFER>},
    {"4x2 tied", gemm<TiedSum, 4, 2>},
    {"5x2 tied", gemm<TiedSum, 5, 2>},
    {"6x1 tied", gemm<TiedSum, 6, 1>},
    {"8x1 tied", gemm<TiedSum, 8, 1>},
    {"10x1 tied", gemm<TiedSum, 10, 1>},
    {"4x2 tied, buffer", gemm<TiedSum, 4, 2, Nibbles::IN_BUFFER>},
    {"5x2 tied, buffer", gemm<TiedSum, 5, 2, Nibbles::IN_BUFFER>},
    {"8x1 tied, buffer", gemm<TiedSum, 8, 1, Nibbles::IN_BUFFER>},
    {"10x1 tied, buffer", gemm<TiedSum, 10, 1, Nibbles::IN_BUFFER>},
    {"12x1 tied, buffer", gemm<TiedSum, 12, 1, Nibbles::IN_BUFFER>},
    {"12x2 tied", gemm<TiedSum, 12, 2>},
    {"12x2 tied, buffer", gemm<TiedSum, 12, 2, Nibbles::IN_BUFFER>},
    {"6x4 tied", gemm<TiedSum, 6, 4>},
    {"6x4 tied, buffer", gemm<TiedSum, 6, 4, Nibbles::IN_BUFFER>},
    {"24x1 tied", gemm<TiedSum, 24, 1>},
    {"24x1 tied, buffer", gemm<TiedSum, 24, 1, Nibbles::IN_BUFFER>},
};

}  // namespace

extern "C" {

const char* rung_name(int index) { return index < int(std::size(RUNGS)) ? RUNGS[index].name : nullptr; }

int lanes() { return LANES; }

// Seconds of one rung over each of `count` problems, one after the other, their panels split evenly among threads.
double run(int rung, const Problem* problems, int count, int num_threads) {
    std::barrier all_here(num_threads);
    std::chrono::steady_clock::time_point start;
    const auto work = [&](int thread) {
        all_here.arrive_and_wait();
        if (thread == 0) start = std::chrono::steady_clock::now();
        for (int i = 0; i < count; i++) {
            const int64_t panels = problems[i].N / PANEL;
            RUNGS[rung].run(problems[i], panels * thread / num_threads, panels * (thread + 1) / num_threads);
            all_here.arrive_and_wait();
        }
    };
    std::vector<std::jthread> others;
    for (int thread = 1; thread < num_threads; thread++) others.emplace_back(work, thread);
    work(0);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // extern "C"
