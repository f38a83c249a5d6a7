#include "measure.h"

#include <atomic>
#include <chrono>

#include "simd.h"
#include "thread_pool.h"
#include "unroll.h"

namespace qw {
namespace {

constexpr int64_t PIECE = 1 << 18;  // bytes of a task
constexpr int STREAMS = 8;          // independent sums

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::atomic<int32_t> sink;  // the sums must be used, or the compiler drops the reads

void read_piece(const uint8_t* p, int64_t bytes, int pattern) {
    const int8_t ones[4] = {1, 1, 1, 1};
    const Bytes one = broadcast4(ones);
    I32 sums[STREAMS];
    for (auto& sum : sums) sum = set_i32(0);
    const int64_t half = bytes / 2 / (64 * STREAMS / 2) * (64 * STREAMS / 2);
    if (pattern == 2 && 2 * half == bytes) {
        for (int64_t at = 0; at < half; at += 64 * STREAMS / 2)
            for (int i = 0; i < STREAMS / 2; i++) {
                sums[i] = dot8(sums[i], load_bytes(p + at + 64 * i), one);
                sums[i + STREAMS / 2] = dot8(sums[i + STREAMS / 2], load_bytes(p + half + at + 64 * i), one);
            }
    } else {
        for (int64_t at = 0; at + 64 * STREAMS <= bytes; at += 64 * STREAMS)
            for (int i = 0; i < STREAMS; i++) {
                sums[i] = dot8(sums[i], load_bytes(p + at + 64 * i), one);
                if (pattern == 1) prefetch(p + at + 64 * i + 4096);
            }
    }
    int32_t total = 0;
    for (auto& sum : sums) total += reduce_add_i32(sum);
    sink.fetch_xor(total, std::memory_order_relaxed);
}

// Products of registers with registers, in as many independent sums as the quantised linear has.
template <int KIND>
double run_peak(int64_t rounds) {
    constexpr int CHAINS = most_parts(4), HELD = 2 * Sum<4>::HELD_ROWS, INNER = 1024;
    const auto start = std::chrono::steady_clock::now();
    parallel_for(rounds, [&](int64_t round) {
        alignas(64) uint8_t start_values[64];
        for (int i = 0; i < 64; i++) start_values[i] = uint8_t(round + i) & 15;
        const Bytes bytes = load_bytes(start_values);
        const Bf16 pairs = load_bf16_pairs(reinterpret_cast<const uint16_t*>(start_values));
        Sum<4> whole[CHAINS];  // of 4-bit codes, which some processors multiply faster than those of 8
        F32 real[CHAINS];
        unroll<CHAINS>([&](auto i) QW_INLINE { whole[i].total = set_i32(i), real[i] = set_f32(float(i)); });
        for (int n = 0; n < INNER; n += HELD) {
            unroll<HELD>([&](auto held) QW_INLINE {
                unroll<CHAINS>([&](auto i) QW_INLINE {
                    if constexpr (KIND == 0) whole[i].template add<held == 0>(opaque(bytes), bytes);
                    if constexpr (KIND == 1) real[i] = dot_bf16(real[i], pairs, pairs);
                    if constexpr (KIND == 2) real[i] = fma(real[i], real[i], real[i]);
                });
            });
            if constexpr (KIND == 0) unroll<CHAINS>([&](auto i) QW_INLINE { whole[i].flush(); });
        }
        int32_t total = 0;
        unroll<CHAINS>([&](auto i) QW_INLINE {
            total += KIND == 0 ? reduce_add_i32(whole[i].total) : int32_t(reduce_add(real[i]) > 0);
        });
        sink.fetch_xor(total, std::memory_order_relaxed);
    });
    const double per_instruction = KIND == 0 ? 128 : KIND == 1 ? 64 : 32;
    return double(rounds) * INNER * CHAINS * per_instruction / seconds_since(start);
}

}  // namespace

double time_read(const void* data, int64_t bytes, int pattern) {
    const auto* p = static_cast<const uint8_t*>(data);
    const auto start = std::chrono::steady_clock::now();
    parallel_for((bytes + PIECE - 1) / PIECE, [&](int64_t task) {
        const int64_t left = bytes - task * PIECE;
        read_piece(p + task * PIECE, left < PIECE ? left : PIECE, pattern);
    });
    return seconds_since(start);
}

double peak_operations(int kind, int64_t rounds) {
    return kind == 0 ? run_peak<0>(rounds) : kind == 1 ? run_peak<1>(rounds) : run_peak<2>(rounds);
}

}  // namespace qw
