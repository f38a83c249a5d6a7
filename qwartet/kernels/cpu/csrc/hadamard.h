// The Walsh-Hadamard transform of a head, which spreads an outlier over its channels (kernels/reference/hadamard.py).
#pragma once
#include <cmath>

#include "simd.h"

namespace qw {

// Lanes i and i ^ DISTANCE -> their sum, and the first minus the second.
template <int DISTANCE>
inline F32 sum_and_difference(F32 x) {
    alignas(64) float signs[16];
    for (int i = 0; i < 16; i++) signs[i] = i & DISTANCE ? -1.0f : 1.0f;
    return fma(x, load_f32(signs), swap_lanes<DISTANCE>(x));
}

// x [dim] <- its transform, over every n neighbours; n: the largest power of two that divides dim, 32 at least. The
// reference adds in the same order.
inline void hadamard(float* x, int dim) {
    const int size = dim & -dim;
    const F32 norm = set_f32(float(std::sqrt(1.0 / size)));
    for (int d = 0; d < dim; d += 16) {
        F32 part = mul(load_f32(x + d), norm);  // first, so that no intermediate sum exceeds the result
        part = sum_and_difference<2>(sum_and_difference<1>(part));
        store_f32(x + d, sum_and_difference<8>(sum_and_difference<4>(part)));
    }
    for (int distance = 16; distance < size; distance *= 2)
        for (int d = 0; d < dim; d += 16) {
            if (d & distance) continue;
            const F32 first = load_f32(x + d), second = load_f32(x + d + distance);
            store_f32(x + d, add(first, second));
            store_f32(x + d + distance, sub(first, second));
        }
}

}  // namespace qw
