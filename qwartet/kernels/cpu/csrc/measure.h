// The peak rates of this machine: the ceilings that benchmarks compare with.
#pragma once
#include <cstdint>

namespace qw {

// Seconds to read `bytes` (a multiple of 64) once with all threads; `pattern` 0, 1, 2: plain, with prefetch, two streams.
double time_read(const void* data, int64_t bytes, int pattern);

// Operations (2 for a multiplication and addition) per second of all threads; `kind` 0: int8 dot, 1: bf16 dot, 2: fp32.
double peak_operations(int kind, int64_t rounds);

}  // namespace qw
